/// The versions that the programs were built with.
const LOCKS: [&str; 2] = [include_str!("../../Cargo.lock"), include_str!("../../peers/Cargo.lock")];

const NAMES: &[&str] = &[
    "sagastore",
    "cqrs-es",
    "sqlite-es",
    "postgres-es",
    "mysql-es",
    "esrs",
    "disintegrate",
    "disintegrate-postgres",
    "eventastic",
    "eventastic_postgres",
    "evento",
    "es-entity",
    "sqlx",
    "libsqlite3-sys",
];

/// Name and version; a crate comes twice if sagastore and its peers have different versions.
pub(crate) fn versions() -> Vec<(String, String)> {
    let mut versions = Vec::new();
    for name in NAMES {
        for lock in LOCKS {
            let start = format!("name = \"{name}\"\nversion = \"");
            let rest = lock.split_once(&start).and_then(|(_, rest)| rest.split_once('"'));
            versions.extend(rest.map(|(version, _)| ((*name).to_owned(), version.to_owned())));
        }
    }
    versions.dedup();
    versions
}
