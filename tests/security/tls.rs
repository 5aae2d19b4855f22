//! TLS to a server that demands it.

use std::env;

use anyhow::{Context, ensure};
use sagastore::dispatcher::Dispatcher;
use sagastore::emitter::emitter_fn;
use sagastore::{Error, InstanceId, Migrated, OutboxRecord, Persister, migrate};
use sqlx::Pool;
use sqlx::pool::PoolOptions;

use crate::command::{fine, run};
use crate::fill::{Diary, note};
use crate::login::{Server, of_database};

const ROOT: &str = "SAGASTORE_TEST_TLS_ROOT";
const OTHER_ROOT: &str = "SAGASTORE_TEST_TLS_OTHER_ROOT";

fn variable(name: &str) -> anyhow::Result<String> {
    env::var(name).with_context(|| format!("{name} is not set"))
}

/// The database that every server has, with these settings.
fn url<DB: Server>(settings: &str) -> anyhow::Result<String> {
    let server = variable(DB::TLS_VARIABLE)?;
    let database = if DB::KIND == "mysql" { "mysql" } else { "postgres" };
    Ok(of_database(&server, database, settings))
}

pub(crate) async fn works<DB: Server>() -> anyhow::Result<()> {
    let verified = DB::verified(&variable(ROOT)?);
    let owner = Pool::<DB>::connect(&url::<DB>(&verified)?).await?;
    let name = format!("tls_{}", &uuid::Uuid::now_v7().simple().to_string()[..26]);
    DB::execute(&owner, &format!("CREATE DATABASE {name}")).await?;

    let place = of_database(&variable(DB::TLS_VARIABLE)?, &name, &verified);
    let pool = Pool::<DB>::connect(&place).await?;
    let version = DB::tls_version(&pool).await?;
    ensure!(version.as_deref().is_some_and(|version| version.starts_with("TLSv1.")), "no TLS: {version:?}");
    ensure!(matches!(migrate(&pool).await?, Migrated::Applied { from: 0, .. }));
    note(&pool, "1", "by TLS").await?;
    let persister = Persister::<DB>::new();
    let found = persister.load_instance(&Diary, &mut *pool.acquire().await?, &InstanceId::new("1")?).await?;
    ensure!(found.is_some_and(|unit| unit.instance().data == ["by TLS"]), "the instance is not there");
    let emitter = emitter_fn(|_: OutboxRecord| async { Ok::<_, std::io::Error>(()) });
    let dispatched = Dispatcher::new(pool.clone(), emitter).dispatch_once().await?;
    ensure!(dispatched.delivered == 2, "{dispatched:?}");
    let listed = fine(&place, &["instances"])?;
    ensure!(listed.out.contains("diary/1"), "{listed:?}");

    pool.close().await;
    DB::execute(&owner, &format!("DROP DATABASE {name}")).await?;
    owner.close().await;
    Ok(())
}

/// Calls the library on a pool that cannot connect; gives the error.
async fn refused<DB: Server>(url: &str) -> anyhow::Result<Error> {
    let pool: Pool<DB> = PoolOptions::new().connect_lazy(url)?;
    let error = migrate(&pool).await.err().context("it got in")?;
    pool.close().await;
    Ok(error)
}

pub(crate) async fn is_demanded<DB: Server>() -> anyhow::Result<()> {
    let plain = url::<DB>(DB::NO_TLS)?;
    let error = refused::<DB>(&plain).await?;
    ensure!(matches!(error, Error::Denied { .. }) && !error.is_transient(), "{error:?}");
    let sentence = error.to_string();
    ensure!(sentence.contains("check the address with its role, password and TLS"), "{sentence}");

    let foreign = url::<DB>(&DB::verified(&variable(OTHER_ROOT)?))?;
    let misnamed = url::<DB>(&DB::verified(&variable(ROOT)?))?.replace("@localhost:", "@127.0.0.1:");
    for (url, why) in [(&foreign, "UnknownIssuer"), (&misnamed, "not valid for name \"127.0.0.1\"")] {
        let sentence = refused::<DB>(url).await?.to_string();
        ensure!(sentence.contains("certificate") && sentence.contains(why), "{why}: {sentence}");
    }
    let missing = url::<DB>(&DB::verified("/nowhere/root.pem"))?;
    let error = refused::<DB>(&missing).await?;
    ensure!(!matches!(error, Error::SchemaMissing { .. }), "{error:?}");
    for url in [plain, foreign, misnamed, missing] {
        let ran = run(&url, &["check"])?;
        ensure!(ran.status == 1 && ran.err.starts_with("sagastore: connecting"), "{ran:?}");
    }
    Ok(())
}
