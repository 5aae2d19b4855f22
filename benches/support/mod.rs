//! What the benches share: databases, each with its plain driver as the yardstick; sagas to
//! measure with; and measuring in rounds.
#![allow(dead_code, reason = "each bench uses a part of it")]

pub(crate) mod backlog;
pub(crate) mod bed;
pub(crate) mod cached_pages;
pub(crate) mod fill;
pub(crate) mod order;
pub(crate) mod rates;
pub(crate) mod side;
pub(crate) mod stock;
pub(crate) mod table;

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
pub(crate) mod sqlite;
