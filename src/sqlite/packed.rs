//! Pages of small commits that the database packs into one value.
//!
//! The driver carries every row, and each of its columns, from its own thread to the caller's one by one, which costs
//! more than reading them. A packed page is one blob instead: the columns of its commits one after another, as text, each
//! followed by a space. Those that can hold any bytes come last, after the numbers that say how long they are.
//!
//! Nothing is judged here. `None` stands for whatever is not as it always is: a commit that is missing, a column
//! that holds something else, a page of too many bytes. Such a page is read again, row by row, and that
//! says what is wrong with which row.

use uuid::Uuid;

use crate::row::CommitColumns;

/// Fewest commits asked for at which packing pays.
pub(super) const MIN_COMMITS: u32 = 16;
/// Most commits that are packed into one value: all of them are looked at before the first is read.
pub(super) const MAX_COMMITS: u32 = 4_096;
/// Fewest bytes of contents and bodies of a page that is not packed: 1 MiB. Copying more costs what packing saves.
pub(super) const MAX_BYTES: i64 = 1024 * 1024;

/// What octet_length gives for a letter. Another number means that the database has no UTF-8 text, in which bytes
/// survive as they are.
const LETTER_BYTES: i64 = 1;

/// The length of what is null.
const NULL: i64 = -1;

/// Bytes of an id.
const ID_BYTES: i64 = 16;

/// A page of the commits `c`, as [`Packed`] takes it; each after other columns, if there are some.
macro_rules! packed_commits {
    ($($others:literal)?) => {
        concat!(
            "CAST(
                COALESCE(
                    group_concat(
                        concat_ws(
                            ' ',
                            ",
            $($others,)?
            "c.commit_no,
                            c.first_offset,
                            c.event_count,
                            c.completed,
                            c.recorded_at,
                            c.checksum,
                            ifnull(octet_length(c.causation_id), -1),
                            ifnull(octet_length(c.correlation_id), -1),
                            octet_length(c.contents),
                            octet_length(c.body),
                            c.causation_id,
                            c.correlation_id,
                            c.contents,
                            c.body,
                            '' -- a space after the last
                        ),
                        ''
                    ),
                    ''
                )
                AS BLOB
            )"
        )
    };
}
pub(super) use packed_commits;

/// What is left of a packed page.
#[derive(Clone, Copy)]
pub(super) struct Packed<'r>(&'r [u8]);

impl<'r> Packed<'r> {
    /// A page of which the database says how long a letter is in it.
    pub(super) fn new(letter_bytes: i64, page: &'r [u8]) -> Option<Self> {
        (letter_bytes == LETTER_BYTES).then_some(Self(page))
    }

    /// The next column, a number.
    pub(super) fn number(&mut self) -> Option<i64> {
        let end = self.0.iter().position(|byte| *byte == b' ')?;
        let word = self.take(end)?;
        let (is_negative, digits) = word.strip_prefix(b"-").map_or((false, word), |digits| (true, digits));
        if digits.is_empty() {
            return None;
        }
        let mut value = 0_i64;
        for digit in digits {
            let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
            // Downwards, because there is one more number below zero than above.
            value = value.checked_mul(10)?.checked_sub(i64::from(digit))?;
        }
        if is_negative { Some(value) } else { value.checked_neg() }
    }

    /// The next column, of which the length is known.
    fn bytes(&mut self, length: i64) -> Option<&'r [u8]> {
        self.take(usize::try_from(length).ok()?)
    }

    /// The same, where it may be null.
    pub(super) fn nullable(&mut self, length: i64) -> Option<Option<&'r [u8]>> {
        if length == NULL { Some(None) } else { self.bytes(length).map(Some) }
    }

    /// So many bytes, with the space after them.
    fn take(&mut self, length: usize) -> Option<&'r [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest.strip_prefix(b" ")?;
        Some(taken)
    }

    fn id(&mut self, length: i64) -> Option<Option<Uuid>> {
        match length {
            NULL => Some(None),
            ID_BYTES => Uuid::from_slice(self.bytes(length)?).ok().map(Some),
            _ => None,
        }
    }

    /// The next columns, which are those of a commit.
    pub(super) fn commit(&mut self) -> Option<CommitColumns> {
        let [commit_no, first_offset, event_count] = [self.number()?, self.number()?, self.number()?];
        let [completed, recorded_at, checksum] = [self.number()?, self.number()?, self.number()?];
        let [causation_length, correlation_length] = [self.number()?, self.number()?];
        let [contents_length, body_length] = [self.number()?, self.number()?];
        Some(CommitColumns {
            commit_no,
            first_offset,
            event_count,
            completed: completed != 0,
            recorded_at,
            order_token: 0,
            causation_id: self.id(causation_length)?,
            correlation_id: self.id(correlation_length)?,
            checksum,
            contents: Some(std::str::from_utf8(self.bytes(contents_length)?).ok()?.to_owned()),
            // Copied, so that who keeps one small message does not keep the page.
            body: Some(self.bytes(body_length)?.to_vec()),
            damage: None,
        })
    }

    /// The commits of a page of one stream, if they are the `limit` commits from number `from` on, or all that there are
    /// of them: the database counted `count`, and the stream's last one is `last`.
    pub(super) fn commits(mut self, from: i64, limit: u32, last: i64, count: i64) -> Option<Vec<CommitColumns>> {
        if count > i64::from(limit) {
            return None;
        }
        let end = from.checked_add(count)?;
        let mut found = Vec::with_capacity(usize::try_from(count).ok()?);
        for commit_no in from..end {
            found.push(self.commit().filter(|commit| commit.commit_no == commit_no)?);
        }
        let is_whole = end > last || count == i64::from(limit);
        (is_whole && self.is_empty()).then_some(found)
    }

    /// True if nothing is left, as it must be after the last commit.
    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use sqlx::pool::PoolConnection;
    use sqlx::sqlite::SqlitePoolOptions;
    use sqlx::{Sqlite, SqliteConnection};

    use super::super::{load, marked, read};
    use super::*;
    use crate::ids::CommitNumber;
    use crate::message_store::{LoadFrom, LoadRequest};
    use crate::outbox::{OutboxId, Selection};
    use crate::saga::SagaStream;

    /// Two commits, the second one completed and with a cause.
    const PAGE: &str = "3 5 1 0 70 9223372036854775807 -1 -1 2 0 ab  4 -6 2 1 80 0 16 -1 3 1 an id of a cause ü, ~ ";

    fn unpacked(page: &[u8]) -> Option<Vec<CommitColumns>> {
        Packed::new(LETTER_BYTES, page)?.commits(3, 2, 9, 2)
    }

    #[test]
    fn a_page_gives_what_went_into_it() {
        let [first, second] = unpacked(PAGE.as_bytes()).expect("reads").try_into().ok().expect("two");
        assert_eq!((first.commit_no, first.first_offset, first.event_count), (3, 5, 1));
        assert_eq!((first.completed, first.recorded_at, first.checksum), (false, 70, i64::MAX));
        assert_eq!((first.causation_id, first.contents, first.body), (None, Some("ab".into()), Some(vec![])));
        assert_eq!((second.commit_no, second.first_offset, second.event_count), (4, -6, 2));
        assert_eq!((second.completed, second.recorded_at, second.checksum), (true, 80, 0));
        assert_eq!((second.contents, second.body), (Some("ü,".into()), Some(b"~".to_vec())));
        let id = Uuid::from_slice(b"an id of a cause").ok();
        assert_eq!((second.causation_id, second.correlation_id), (id, None));
    }

    #[test]
    fn what_is_unusual_is_left_to_the_rows() {
        for (from, to) in [
            ("3 5 1", "4 5 1"), // another commit
            ("3 5 1", "3 x 1"),
            ("3 5 1", "3 - 1"),
            ("3 5 1", "3 1.0 1"),
            ("3 5 1", "3  5 1"),
            ("3 5 1", "5 1"),
            ("9223372036854775807", "9223372036854775808"),
            ("2 0 ab", "3 0 ab"),
            ("2 0 ab", "1 0 ab"),
            ("2 0 ab", "2 1 ab"),
            ("2 0 ab", "-1 0 ab"),
            ("2 0 ab", "9223372036854775807 0 ab"),
            ("3 1 an", "2 1 an"), // cuts a character
            ("3 1 an", "3 2 an"),
            ("3 1 an", "3 0 an"),
            (" 16 -1 ", " 15 -1 "),
            (" 16 -1 ", " -1 -1 "),
            (" 16 -1 ", " 16 16 "),
            (" 16 -1 ", " 16 0 "),
            (" ~ ", " ~"),
            (" ~ ", " "),
            (" ~ ", " ~ ~ "),
            (" ~ ", " ~  "),
        ] {
            let changed = PAGE.replacen(from, to, 1);
            assert_ne!(changed, PAGE, "{from}");
            assert!(unpacked(changed.as_bytes()).is_none(), "{changed}");
        }
        assert!(unpacked(b"").is_none());
        let no_text: Vec<u8> = PAGE.bytes().map(|byte| if byte == b',' { 0xff } else { byte }).collect();
        assert!(unpacked(&no_text).is_none());
        assert!(Packed::new(2, PAGE.as_bytes()).is_none(), "another encoding");
    }

    /// An instance of twenty commits of two bytes each.
    async fn database(stream: &SagaStream) -> PoolConnection<Sqlite> {
        let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await.expect("opens");
        let _ = crate::migrate(&pool).await.expect("migrates");
        let mut conn = pool.acquire().await.expect("a connection");
        sqlx::query("INSERT INTO saga_stream VALUES (1, ?1, 'counter', '1', 0, NULL)")
            .bind(stream.name.as_str())
            .execute(&mut *conn)
            .await
            .expect("inserts");
        change(
            &mut conn,
            "INSERT INTO saga_commit
            WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20)
            SELECT n, 1, n, n - 1, 1, 1, 0, NULL, NULL, NULL, n, n, 7, 'c', x'00' FROM n",
        )
        .await;
        conn
    }

    async fn change(conn: &mut SqliteConnection, sql: &'static str) {
        assert!(sqlx::query(sql).execute(conn).await.expect("changes").rows_affected() > 0, "{sql}");
    }

    /// How many commits come packed: of the stream, of the load and of the outbox.
    async fn packed(conn: &mut SqliteConnection, stream: &SagaStream) -> [Option<usize>; 3] {
        let page = read::select_packed(conn, &stream.name, CommitNumber::of(1), 500).await.expect("reads");
        let request = LoadRequest { stream, from: LoadFrom::Snapshot, handled: None };
        let answer = load::select_packed(conn, &request).await.expect("loads");
        let loaded = answer.map(|answer| answer.into_loaded(stream).expect("fits").page.commits.len());
        let marked = marked::select_packed(conn, Selection::ALL, OutboxId::START, 500).await.expect("reads");
        [page.map(|page| page.len()), loaded, marked.map(|marked| marked.len())]
    }

    #[tokio::test]
    async fn small_commits_come_packed_and_all_others_in_rows() {
        let id = crate::InstanceId::new("1").expect("valid");
        let stream = SagaStream::new("counter", &id).expect("valid");
        let mut conn = database(&stream).await;
        assert_eq!(packed(&mut conn, &stream).await, [Some(20); 3]);
        // Nineteen commits of two bytes, and contents of one.
        change(&mut conn, "UPDATE saga_commit SET body = zeroblob(1048576 - 39 - 1) WHERE commit_no = 1").await;
        assert_eq!(packed(&mut conn, &stream).await, [Some(20); 3]);
        change(&mut conn, "UPDATE saga_commit SET body = zeroblob(1048576 - 39) WHERE commit_no = 1").await;
        assert_eq!(packed(&mut conn, &stream).await, [None; 3]);
        change(&mut conn, "UPDATE saga_commit SET body = x'', causation_id = x'01' WHERE commit_no = 1").await;
        assert_eq!(packed(&mut conn, &stream).await, [None; 3]);
        change(&mut conn, "UPDATE saga_commit SET causation_id = NULL, contents = CAST(x'ff' AS TEXT)").await;
        assert_eq!(packed(&mut conn, &stream).await, [None; 3]);
        change(&mut conn, "UPDATE saga_commit SET contents = CAST(x'00' AS TEXT), completed = 1").await;
        assert_eq!(packed(&mut conn, &stream).await, [Some(20); 3]);
        change(&mut conn, "DELETE FROM saga_commit WHERE commit_no = 7").await;
        assert_eq!(packed(&mut conn, &stream).await, [None, None, Some(19)]);
    }

    #[test]
    fn a_page_ends_at_its_limit_or_at_the_end_of_its_stream() {
        let commits = |page: &str, limit, last, count| Packed(page.as_bytes()).commits(3, limit, last, count);
        assert!(commits(PAGE, 2, 9, 2).is_some());
        assert!(commits(PAGE, 3, 9, 2).is_none(), "the stream goes on until commit 9");
        assert!(commits(PAGE, 3, 4, 2).is_some());
        assert!(commits(PAGE, 1, 4, 2).is_none(), "more than were asked for");
        assert!(commits(PAGE, 2, 9, 1).is_none(), "more than were counted");
        assert!(commits(PAGE, 3, 9, 3).is_none(), "fewer than were counted");
        assert!(commits("", 2, 2, 0).is_some_and(|commits| commits.is_empty()));
        assert!(commits("", 2, 3, 0).is_none(), "there is one");
    }
}
