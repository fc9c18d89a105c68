//! The front doors over real sockets, with the fake provider behind them.

mod access;
mod bad_requests;
mod contract;
mod limits;
mod service;
mod support;
