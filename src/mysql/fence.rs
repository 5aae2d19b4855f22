//! Keeping leases from being taken over.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::MySqlConnection;

use super::hex;
use crate::lock::{Fence, Resource};

/// Fences as a JSON array of arrays, so that one text serves every number of them.
fn places(fences: &[Fence]) -> String {
    let place = |fence: &Fence| {
        let Resource { namespace, id } = &fence.resource;
        json!([hex(namespace.as_str()), hex(id.as_str()), fence.token.get()])
    };
    fences.iter().map(place).collect::<Value>().to_string()
}

/// Locks the entries of the index alone, which only a change of the token touches: that keeps off who takes a
/// lease over, and not who renews it. So all columns here must be those of the index; that it was not released
/// is looked at afterwards.
pub(super) async fn hold(conn: &mut MySqlConnection, fences: &[Fence]) -> sqlx::Result<BTreeSet<usize>> {
    let places = places(fences);
    let locked: Vec<i64> = sqlx::query_scalar(
        "SELECT CAST(fence.place AS SIGNED) - 1
        FROM JSON_TABLE(
            ?,
            '$[*]' COLUMNS (
                place       FOR ORDINALITY,
                namespace   VARCHAR(320)  CHARACTER SET ascii PATH '$[0]',
                resource_id VARCHAR(1024) CHARACTER SET ascii PATH '$[1]',
                token       BIGINT                            PATH '$[2]'
            )
        ) AS fence
        STRAIGHT_JOIN saga_lease AS l FORCE INDEX (saga_lease_token)
            ON l.namespace = UNHEX(fence.namespace)
            AND l.resource_id = UNHEX(fence.resource_id)
            AND l.token = fence.token
        LOCK IN SHARE MODE",
    )
    .bind(&places)
    .fetch_all(&mut *conn)
    .await?;
    let unreleased: Vec<i64> = sqlx::query_scalar(
        "SELECT CAST(fence.place AS SIGNED) - 1
        FROM JSON_TABLE(
            ?,
            '$[*]' COLUMNS (
                place       FOR ORDINALITY,
                namespace   VARCHAR(320)  CHARACTER SET ascii PATH '$[0]',
                resource_id VARCHAR(1024) CHARACTER SET ascii PATH '$[1]',
                token       BIGINT                            PATH '$[2]'
            )
        ) AS fence
        STRAIGHT_JOIN saga_lease AS l
            ON l.namespace = UNHEX(fence.namespace)
            AND l.resource_id = UNHEX(fence.resource_id)
            AND l.token = fence.token
        WHERE l.client_id IS NOT NULL",
    )
    .bind(&places)
    .fetch_all(conn)
    .await?;
    let unreleased: BTreeSet<_> = unreleased.into_iter().collect();
    let held = locked.into_iter().filter(|place| unreleased.contains(place));
    Ok(held.filter_map(|place| usize::try_from(place).ok()).collect())
}
