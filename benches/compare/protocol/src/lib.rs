//! What every measured program does, so that they differ in nothing but the library they use.
//!
//! A program prepares a database once, and then measures a round whenever it is called; each result is a line of JSON.

mod arguments;
mod line;
mod load;
mod peer;
mod round;
mod step;
mod tally;
mod unit;

pub use arguments::{Arguments, Server, Task};
pub use line::Line;
pub use peer::Peer;
pub use round::run;
pub use step::Step;
pub use tally::Tally;

/// Connections of a pool: what sqlx takes when nothing is said.
pub const CONNECTIONS: u32 = 10;
/// Tasks that do units of work at the same time.
pub const CLIENTS: [u32; 3] = [1, 8, 32];
/// Events of a unit of work.
pub const EVENTS: [u32; 2] = [1, 5];
/// Events of the instances that are loaded.
pub const REVISIONS: [u32; 4] = [10, 100, 1_000, 10_000];
/// Events of the instance that is replayed without snapshots.
pub const REPLAYED: u32 = 10_000;
/// Events of an instance before units of work are measured on it.
pub const SHORT_HISTORY: u32 = 20;
