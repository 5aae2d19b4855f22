//! How a server is asked in other names and by other ways.

use sqlx::Pool;

use crate::site::Site;

/// A database on a server.
pub(crate) trait Server: Site {
    /// The environment variable with the URL of a role that is let in by TLS alone.
    const TLS_VARIABLE: &'static str;
    /// The first words of the block of the manual with the rights of a role.
    const RIGHTS: &'static str;
    /// What a URL says for no TLS at all.
    const NO_TLS: &'static str;

    /// What a URL says for TLS whose certificate is verified.
    fn verified(root: &str) -> String;

    /// Makes a role.
    fn make_role(role: &str, password: &str) -> String;

    /// Removes it, when its database is gone.
    fn drop_role(role: &str) -> String;

    /// What this database alone offers.
    fn only_here(pool: &Pool<Self>, url: &str) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// The version of TLS of a connection, if it has any.
    fn tls_version(pool: &Pool<Self>) -> impl Future<Output = anyhow::Result<Option<String>>> + Send;
}

#[cfg(feature = "postgres")]
impl Server for sqlx::Postgres {
    const TLS_VARIABLE: &'static str = "SAGASTORE_TEST_POSTGRES_TLS_URL";
    const RIGHTS: &'static str = "-- PostgreSQL";
    const NO_TLS: &'static str = "sslmode=disable";

    fn verified(root: &str) -> String {
        format!("sslmode=verify-full&sslrootcert={root}")
    }

    fn make_role(role: &str, password: &str) -> String {
        format!("CREATE ROLE {role} LOGIN PASSWORD '{password}'")
    }

    fn drop_role(role: &str) -> String {
        format!("DROP ROLE {role}")
    }

    async fn only_here(pool: &Pool<Self>, url: &str) -> anyhow::Result<()> {
        use sagastore::postgres::OutboxNotifier;
        use sagastore::postgres::session::{SessionLockKey, SessionLocker, SessionLockerConfig};
        use sagastore::{GlobalPosition, GloballyOrderedStore};

        let _notifier = OutboxNotifier::start(pool, &sagastore::OutboxWaker::new()).await?;
        let locker = SessionLocker::new(SessionLockerConfig::new(url.parse()?));
        locker.start().await?;
        let mut held = locker.lock(&SessionLockKey::new(["nightly"])?).await?;
        anyhow::ensure!(held.release().await.is_ok(), "the lock was not held");
        locker.close().await;
        let (store, mut tx) = (<Self as sagastore::Backend>::Store::default(), pool.begin().await?);
        let read = store.read_global(&mut tx, GlobalPosition::START, 10).await?;
        store.move_consumer(&mut tx, "reader", GlobalPosition::START, "0:0:1:0".parse()?).await?;
        anyhow::ensure!(!read.is_empty(), "there are no events");
        Ok(tx.commit().await?)
    }

    async fn tls_version(pool: &Pool<Self>) -> anyhow::Result<Option<String>> {
        let version = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        Ok(sqlx::query_scalar(version).fetch_one(pool).await?)
    }
}

#[cfg(feature = "mysql")]
impl Server for sqlx::MySql {
    const TLS_VARIABLE: &'static str = "SAGASTORE_TEST_MYSQL_TLS_URL";
    const RIGHTS: &'static str = "-- MySQL and MariaDB";
    const NO_TLS: &'static str = "ssl-mode=disabled";

    fn verified(root: &str) -> String {
        format!("ssl-mode=verify_identity&ssl-ca={root}")
    }

    fn make_role(role: &str, password: &str) -> String {
        format!("CREATE USER '{role}'@'%' IDENTIFIED BY '{password}'")
    }

    fn drop_role(role: &str) -> String {
        format!("DROP USER '{role}'@'%'")
    }

    async fn only_here(pool: &Pool<Self>, _: &str) -> anyhow::Result<()> {
        use sagastore::mysql::MySqlStore;
        use sagastore::{GlobalPosition, GloballyOrderedStore, InstanceId, Persister};

        MySqlStore::enable_global_order(pool).await?;
        let store = MySqlStore::default().with_global_order();
        let persister = Persister::<Self>::with_store(std::sync::Arc::new(store.clone()));
        let publish = async |number: i64| {
            let note = crate::fill::Noted::Noted { note: number.to_string() };
            let id = InstanceId::new("in order")?;
            let done =
                persister.execute(pool, &crate::fill::Diary, &id, None, |unit| unit.publish(note.clone()).map(drop));
            done.await
        };
        anyhow::ensure!(!publish(1).await?.is_already_handled());
        let mut tx = pool.begin().await?;
        let read = store.read_global(&mut tx, GlobalPosition::START, 10).await?;
        anyhow::ensure!(!read.is_empty(), "there are no events");
        store.move_consumer(&mut tx, "reader", GlobalPosition::START, "0:0:1:0".parse()?).await?;
        Ok(tx.commit().await?)
    }

    async fn tls_version(pool: &Pool<Self>) -> anyhow::Result<Option<String>> {
        let version: (String, String) =
            sqlx::query_as("SHOW SESSION STATUS LIKE 'Ssl_version'").fetch_one(pool).await?;
        Ok(Some(version.1).filter(|version| !version.is_empty()))
    }
}

/// The same URL with another name and password.
pub(crate) fn as_role(url: &str, role: &str, password: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (_, place) = rest.rsplit_once('@').unwrap();
    format!("{scheme}://{role}:{password}@{place}")
}

/// The same URL, leading to another database, with these settings and no others.
pub(crate) fn of_database(url: &str, database: &str, settings: &str) -> String {
    let base = url.split('?').next().unwrap();
    let host = base.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    format!("{host}/{database}?{settings}")
}
