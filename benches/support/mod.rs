//! What the benches share: databases, each with its plain driver as the yardstick; sagas to
//! measure with; and measuring in rounds.
#![allow(dead_code, reason = "each bench uses a part of it")]

pub(crate) mod append_alone;
pub(crate) mod backlog;
pub(crate) mod bed;
pub(crate) mod cached_pages;
pub(crate) mod clients;
pub(crate) mod contention;
pub(crate) mod fill;
pub(crate) mod measured;
pub(crate) mod order;
pub(crate) mod plain;
pub(crate) mod rates;
pub(crate) mod side;
pub(crate) mod stock;
pub(crate) mod table;
pub(crate) mod tailed;
pub(crate) mod targets;

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
pub(crate) mod sqlite;
