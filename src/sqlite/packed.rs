//! Pages of small commits that the database packs into one row.
//!
//! The driver carries every row, and each of its columns, from its own thread to the caller's one by one, which costs
//! more than reading them. A packed page is four columns instead: the numbers of all its commits as text, their
//! ids one after another, and so their contents and their bodies. The text has the number of commits and
//! lists of numbers, with `;` between the lists and a space between the numbers. One of the lists says of each
//! commit whether it is completed, and which ids it has.
//!
//! Nothing is judged here. `None` stands for whatever is not as it always is: a commit that is missing, a column
//! that holds something else, a page of too many bytes. Such a page is read again, row by row, and that
//! says what is wrong with which row.

use uuid::Uuid;

use crate::row::CommitColumns;

/// Fewest commits asked for at which packing pays.
pub(super) const MIN_COMMITS: u32 = 16;
/// Most commits that are packed into one row: all of them are looked at before the first is read.
pub(super) const MAX_COMMITS: u32 = 4_096;
/// Fewest bytes of contents and bodies of a page that is not packed: 1 MiB. Copying more costs what packing saves.
pub(super) const MAX_BYTES: i64 = 1024 * 1024;

/// What octet_length gives for a letter. Another number means that the database has no UTF-8 text, in which bytes
/// survive as they are.
const LETTER_BYTES: i64 = 1;

/// In the list of flags: the instance is completed.
const COMPLETED: i64 = 1;
/// There is a causation id of [`ID_BYTES`]. One of another length is not told, and so is left over in the end.
const CAUSED: i64 = 2;
/// The same of a correlation id.
const CORRELATED: i64 = 4;
/// All of them.
const FLAGS: i64 = COMPLETED + CAUSED + CORRELATED;

/// Bytes of an id.
const ID_BYTES: i64 = 16;

/// A packed page of one stream.
pub(super) struct StreamPage<'r> {
    pub(super) numbers: &'r str,
    pub(super) ids: &'r [u8],
    pub(super) contents: &'r [u8],
    pub(super) body: &'r [u8],
}

impl StreamPage<'_> {
    /// Its commits, if they are the `limit` commits from number `from` on, or all that the stream has of them.
    pub(super) fn commits(&self, from: i64, limit: u32) -> Option<Vec<CommitColumns>> {
        let mut lists = Lists::new(self.numbers)?;
        let (last, count) = (lists.number()?, lists.number()?);
        if count == 0 {
            return (last < from).then(Vec::new);
        }
        if count > i64::from(limit) {
            return None;
        }
        let mut numbers = lists.next()?;
        let mut commits = PackedCommits::new(&mut lists, self.ids, self.contents, self.body)?;
        let end = from.checked_add(count)?;
        let mut found = Vec::with_capacity(usize::try_from(count).ok()?);
        for commit_no in from..end {
            if numbers.next()? != commit_no {
                return None;
            }
            found.push(commits.next(commit_no)?);
        }
        let is_whole = end > last || count == i64::from(limit);
        (is_whole && numbers.is_empty() && commits.is_empty() && lists.is_empty()).then_some(found)
    }
}

/// The lists of a packed page.
pub(super) struct Lists<'r>(Option<&'r str>);

impl<'r> Lists<'r> {
    pub(super) fn new(text: &'r str) -> Option<Self> {
        let mut lists = Self(Some(text));
        (lists.number()? == LETTER_BYTES).then_some(lists)
    }

    pub(super) fn next(&mut self) -> Option<Numbers<'r>> {
        let (list, rest) = match self.0?.split_once(';') {
            Some((list, rest)) => (list, Some(rest)),
            None => (self.0?, None),
        };
        self.0 = rest;
        Some(Numbers(list.as_bytes()))
    }

    /// A list of one number.
    pub(super) fn number(&mut self) -> Option<i64> {
        let mut list = self.next()?;
        list.next().filter(|_| list.is_empty())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// A list of decimal numbers with a space after each but the last.
#[derive(Clone, Copy)]
pub(super) struct Numbers<'r>(&'r [u8]);

impl<'r> Numbers<'r> {
    pub(super) fn next(&mut self) -> Option<i64> {
        let word = self.word()?;
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

    fn word(&mut self) -> Option<&'r [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().position(|byte| *byte == b' ');
        let (word, rest) = self.0.split_at_checked(end.unwrap_or(self.0.len()))?;
        self.0 = rest.get(1..).unwrap_or_default();
        Some(word)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The columns of commits, taken from their lists one commit after another.
pub(super) struct PackedCommits<'r> {
    first_offset: Numbers<'r>,
    event_count: Numbers<'r>,
    recorded_at: Numbers<'r>,
    checksum: Numbers<'r>,
    contents_length: Numbers<'r>,
    body_length: Numbers<'r>,
    flags: Numbers<'r>,
    ids: Bytes<'r>,
    contents: Bytes<'r>,
    body: Bytes<'r>,
}

impl<'r> PackedCommits<'r> {
    /// The lists that every statement has last, in this order.
    pub(super) fn new(lists: &mut Lists<'r>, ids: &'r [u8], contents: &'r [u8], body: &'r [u8]) -> Option<Self> {
        Some(Self {
            first_offset: lists.next()?,
            event_count: lists.next()?,
            recorded_at: lists.next()?,
            checksum: lists.next()?,
            contents_length: lists.next()?,
            body_length: lists.next()?,
            flags: lists.next()?,
            ids: Bytes(ids),
            contents: Bytes(contents),
            body: Bytes(body),
        })
    }

    /// The next commit, which has this number.
    pub(super) fn next(&mut self, commit_no: i64) -> Option<CommitColumns> {
        let flags = self.flags.next().filter(|flags| (0..=FLAGS).contains(flags))?;
        Some(CommitColumns {
            commit_no,
            first_offset: self.first_offset.next()?,
            event_count: self.event_count.next()?,
            completed: flags & COMPLETED != 0,
            recorded_at: self.recorded_at.next()?,
            order_token: 0,
            causation_id: if flags & CAUSED == 0 { None } else { Some(self.ids.id()?) },
            correlation_id: if flags & CORRELATED == 0 { None } else { Some(self.ids.id()?) },
            checksum: self.checksum.next()?,
            contents: Some(self.contents.text(self.contents_length.next()?)?),
            // Copied, so that who keeps one small message does not keep the page.
            body: Some(self.body.take(self.body_length.next()?)?.to_vec()),
            damage: None,
        })
    }

    /// True if nothing is left, as it must be after the last commit.
    pub(super) fn is_empty(&self) -> bool {
        let numbers = [
            self.first_offset,
            self.event_count,
            self.recorded_at,
            self.checksum,
            self.contents_length,
            self.body_length,
            self.flags,
        ];
        let bytes = [&self.ids, &self.contents, &self.body];
        numbers.iter().all(Numbers::is_empty) && bytes.iter().all(|bytes| bytes.is_empty())
    }
}

/// Ids, texts or blobs, one after another.
pub(super) struct Bytes<'r>(pub(super) &'r [u8]);

impl<'r> Bytes<'r> {
    fn take(&mut self, length: i64) -> Option<&'r [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn id(&mut self) -> Option<Uuid> {
        Uuid::from_slice(self.take(ID_BYTES)?).ok()
    }

    pub(super) fn bytes(&mut self, length: i64) -> Option<Vec<u8>> {
        self.take(length).map(<[u8]>::to_vec)
    }

    fn text(&mut self, length: i64) -> Option<String> {
        std::str::from_utf8(self.take(length)?).ok().map(str::to_owned)
    }

    pub(super) fn is_empty(&self) -> bool {
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

    const ID: &[u8] = b"an id of a cause";

    fn page(numbers: &str, contents: &[u8], body: &[u8]) -> Option<Vec<CommitColumns>> {
        StreamPage { numbers, ids: ID, contents, body }.commits(3, 2)
    }

    /// Two commits, the second one completed and with a cause.
    const NUMBERS: &str = "1;9;2;3 4;5 -6;1 2;70 80;9223372036854775807 0;2 3;0 1;0 3";

    #[test]
    fn a_page_gives_what_went_into_it() {
        let [first, second] = page(NUMBERS, "abü,".as_bytes(), b"\0").expect("reads").try_into().ok().expect("two");
        assert_eq!((first.commit_no, first.first_offset, first.event_count), (3, 5, 1));
        assert_eq!((first.completed, first.recorded_at, first.checksum), (false, 70, i64::MAX));
        assert_eq!((first.causation_id, first.contents, first.body), (None, Some("ab".into()), Some(vec![])));
        assert_eq!((second.commit_no, second.first_offset, second.event_count), (4, -6, 2));
        assert_eq!((second.completed, second.recorded_at, second.checksum), (true, 80, 0));
        assert_eq!((second.contents, second.body), (Some("ü,".into()), Some(vec![0])));
        assert_eq!((second.causation_id, second.correlation_id), (Uuid::from_slice(ID).ok(), None));
    }

    #[test]
    fn what_is_unusual_is_left_to_the_rows() {
        let contents = "abü,".as_bytes();
        for (from, to) in [
            ("1;9;", "2;9;"),       // another encoding
            (";2;3 4;", ";3;3 4;"), // a commit too few
            (";2;3 4;", ";1;3 4;"), // a commit too many
            (";3 4;", ";3 5;"),     // another commit
            (";3 4;", ";4 3;"),     // another order
            (";3 4;", ";3;"),
            (";5 -6;", ";5;"),
            (";5 -6;", ";5 -6 7;"),
            (";5 -6;", ";5 x;"),
            (";5 -6;", ";5 -;"),
            (";5 -6;", ";5 1.0;"),
            (";5 -6;", ";5  -6;"),
            (";5 -6;", ";"),
            ("9223372036854775807", "9223372036854775808"),
            (";2 3;", ";2 4;"),
            (";2 3;", ";3 2;"), // cuts a character
            (";2 3;", ";-1 6;"),
            (";0 1;", ";0 0;"),
            (";0 1;", ";0 9223372036854775807;"),
            (";0 3", ";0 1"), // an id is left over
            (";0 3", ";0 5;"),
            (";0 3", ";0 7"), // an id too few
            (";0 3", ";2 3"),
            (";0 3", ";0 11"),
            (";0 3", ";0 -5"),
            (";0 3", ";0"),
            (";0 3", ";0 3 0"),
            (";0 3", ""),
            (";0 3", ";0 3;"),
        ] {
            let changed = NUMBERS.replacen(from, to, 1);
            assert_ne!(changed, NUMBERS, "{from}");
            assert!(page(&changed, contents, b"\0").is_none(), "{changed}");
        }
        assert!(page(NUMBERS, contents, b"").is_none());
        assert!(page(NUMBERS, contents, b"\0\0").is_none());
        assert!(page(NUMBERS, b"ab\xff\xff,", b"\0").is_none());
        let ids: [&[u8]; 3] = [b"", b"an id of a caus", b"an id of a cause!"];
        for ids in ids {
            assert!(StreamPage { numbers: NUMBERS, ids, contents, body: b"\0" }.commits(3, 2).is_none());
        }
        assert!(page("", contents, b"").is_none());
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
        let whole = StreamPage { numbers: NUMBERS, ids: ID, contents: "abü,".as_bytes(), body: b"\0" };
        assert!(whole.commits(3, 2).is_some());
        assert!(whole.commits(3, 3).is_none(), "the stream goes on until commit 9");
        let last = StreamPage { numbers: &NUMBERS.replace("1;9;", "1;4;"), ..whole };
        assert!(last.commits(3, 3).is_some());
        assert!(page("1;2;0", b"", b"").is_some_and(|commits| commits.is_empty()));
        assert!(page("1;3;0", b"", b"").is_none(), "there is one");
    }
}
