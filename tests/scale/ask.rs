//! Numbers from a database.

use std::future::Future;

use sqlx::Pool;

use super::site::Site;

pub(crate) trait Ask: Site {
    /// The one number that a query gives.
    fn number(pool: &Pool<Self>, query: &'static str) -> impl Future<Output = sqlx::Result<i64>> + Send;
}

macro_rules! ask {
    ($driver:ty) => {
        impl Ask for $driver {
            async fn number(pool: &Pool<Self>, query: &'static str) -> sqlx::Result<i64> {
                sqlx::query_scalar(query).fetch_one(pool).await
            }
        }
    };
}

ask!(sqlx::Sqlite);
#[cfg(feature = "postgres")]
ask!(sqlx::Postgres);
#[cfg(feature = "mysql")]
ask!(sqlx::MySql);
