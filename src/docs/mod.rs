//! Longer texts: what is guaranteed, how transactions behave, and why it is built so.

#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("transactions.md")]
pub mod transactions {}

#[doc = include_str!("handling.md")]
pub mod handling {}

#[doc = include_str!("locks.md")]
pub mod locks {}

#[doc = include_str!("design.md")]
pub mod design {}

#[doc = include_str!("operations.md")]
pub mod operations {}

#[cfg(feature = "export")]
#[doc = include_str!("export.md")]
pub mod export {}
