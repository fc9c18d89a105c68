//! The front doors over real sockets, with the fake provider behind them.

mod bad_requests;
mod contract;
mod service;
mod support;
