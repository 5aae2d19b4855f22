//! Sessions of MySQL and MariaDB that do not commit by themselves.

use sagastore::lock::DatabaseLock;
use sagastore::mysql;
use sqlx::{MySql, Pool};

use crate::harness::sample::{Counter, added, instance};
use crate::harness::{Clause, LONG_LEASE, Subject, TestDb, mysql_clauses, obtain};

mysql_clauses! {
    the_advised_pool_commits_where_the_server_does_not,
}

/// As by a server whose `init_connect` says so: sqlx writes the zone as it is into what it sets in each session.
const ZONE_WITHOUT_AUTOCOMMIT: &str = "+00:00',autocommit='OFF";

async fn the_advised_pool_commits_where_the_server_does_not(db: TestDb<MySql>) -> Clause {
    let options = mysql::connect_options(db.home().options.clone()).timezone(Some(ZONE_WITHOUT_AUTOCOMMIT.to_owned()));
    assert_eq!(autocommit(&Pool::connect_with(options.clone()).await?).await?, "0");
    let pool = mysql::pool_options().max_connections(2).connect_with(options).await?;
    assert_eq!(autocommit(&pool).await?, "1");
    let (persister, id) = (db.persister(), instance("1"));
    let _ = persister.execute(&pool, &Counter, &id, None, |unit| unit.publish(added(1)).map(drop)).await?;
    obtain(&DatabaseLock::new(pool.clone()).with_length(LONG_LEASE)?, "r", "a").await?;
    pool.close().await;
    assert_eq!(db.state(&Counter, "1").await?, Some((1, 1)));
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_lease").await?, 1);
    Ok(())
}

async fn autocommit(pool: &Pool<MySql>) -> anyhow::Result<String> {
    let rows = MySql::rows(&mut *pool.acquire().await?, "SELECT IF(@@autocommit, '1', '0')".to_owned()).await?;
    Ok(rows[0][0].clone().unwrap_or_default())
}
