use serde::Serialize;
use time::OffsetDateTime;

use crate::crates;
use crate::database::Host;
use crate::machine::Machine;

/// With what the results were made.
#[derive(Default, Serialize)]
pub(crate) struct Made {
    pub(crate) date: String,
    pub(crate) machine: Machine,
    /// Name, and version with settings.
    pub(crate) databases: Vec<(String, String)>,
    pub(crate) crates: Vec<(String, String)>,
    /// Databases that were not measured, and why.
    pub(crate) left_out: Vec<String>,
}

impl Made {
    pub(crate) async fn with(hosts: &mut [Host], left_out: Vec<String>) -> Self {
        let mut databases = Vec::new();
        for host in hosts {
            databases.push((host.server().to_string(), host.describe().await));
        }
        let date = OffsetDateTime::now_utc().date().to_string();
        Self { date, machine: Machine::read(), databases, crates: crates::versions(), left_out }
    }
}
