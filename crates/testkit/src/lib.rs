//! What the tests of Ampoule share.
