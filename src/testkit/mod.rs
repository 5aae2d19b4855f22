//! Tests of sagas without a database, a suite for stores, and faults on purpose.
//!
//! # Sagas
//!
//! [`SagaTest`] gives a saga a history, hands it a message, and compares what it did with what is expected. It needs no
//! database and no runtime. What is given and published is encoded, decoded and folded as it would be in a store, so a
//! state that replay does not give, or an event that cannot be read again, fails the test.
//!
#![cfg_attr(all(feature = "json", feature = "bincode"), doc = "```")]
#![cfg_attr(not(all(feature = "json", feature = "bincode")), doc = "```ignore")]
//! use std::time::Duration;
//!
//! use sagastore::testkit::SagaTest;
//! use sagastore::{Cause, Envelope, HandleMessage, Saga, UnitOfWork, message_types};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, Serialize, Deserialize)]
//! enum Event {
//!     Placed { cents: u32 },
//!     Paid,
//!     GivenUp,
//! }
//! message_types!(Event { Placed: "OrderPlaced" 1, Paid: "OrderPaid" 1, GivenUp: "OrderGivenUp" 1 });
//!
//! #[derive(Debug, Serialize, Deserialize)]
//! enum Message {
//!     Place { cents: u32 },
//!     Pay,
//!     PaymentIsLate,
//! }
//! message_types!(Message { Place: "PlaceOrder" 1, Pay: "PayOrder" 1, PaymentIsLate: "PaymentIsLate" 1 });
//!
//! #[derive(Debug, Serialize)]
//! enum Command {
//!     TakePayment { cents: u32 },
//!     Ship,
//! }
//! message_types!(Command { TakePayment: "TakePayment" 1, Ship: "Ship" 1 });
//!
//! #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
//! struct Order {
//!     cents: u32,
//!     closed: bool,
//! }
//!
//! struct OrderSaga;
//!
//! impl Saga for OrderSaga {
//!     type Data = Order;
//!     type Event = Event;
//!
//!     fn persistence_key(&self) -> &str {
//!         "order"
//!     }
//!
//!     fn new_data(&self) -> Order {
//!         Order::default()
//!     }
//!
//!     fn apply_event(&self, order: &mut Order, event: &Event, _: &Envelope) {
//!         match event {
//!             Event::Placed { cents } => order.cents = *cents,
//!             Event::Paid | Event::GivenUp => order.closed = true,
//!         }
//!     }
//!
//!     fn is_complete(&self, order: &Order) -> bool {
//!         order.closed
//!     }
//! }
//!
//! impl HandleMessage for OrderSaga {
//!     type Message = Message;
//!
//!     fn is_trigger(&self, message: &Message) -> bool {
//!         matches!(message, Message::Place { .. })
//!     }
//!
//!     fn handle(&self, unit: &mut UnitOfWork<'_, Self>, message: &Message) -> Result<(), Cause> {
//!         match message {
//!             Message::Place { cents } => {
//!                 unit.publish(Event::Placed { cents: *cents })?;
//!                 unit.execute(&Command::TakePayment { cents: *cents })?;
//!                 unit.schedule("payment", &Message::PaymentIsLate, Duration::from_secs(3600))?;
//!             }
//!             Message::Pay => {
//!                 unit.publish(Event::Paid)?;
//!                 unit.execute(&Command::Ship)?;
//!                 unit.cancel_timeout("payment")?;
//!             }
//!             Message::PaymentIsLate => drop(unit.publish(Event::GivenUp)?),
//!         }
//!         Ok(())
//!     }
//! }
//!
//! SagaTest::new(OrderSaga)
//!     .when(Message::Place { cents: 995 })
//!     .expect_events([Event::Placed { cents: 995 }])
//!     .expect_commands([Command::TakePayment { cents: 995 }])
//!     .expect_timeouts([("payment", Duration::from_secs(3600), Message::PaymentIsLate)])
//!     .expect_state_eq(&Order { cents: 995, closed: false })
//!     .advance(Duration::from_secs(3599))
//!     .expect_nothing()
//!     .advance(Duration::from_secs(1))
//!     .expect_events([Event::GivenUp])
//!     .expect_completed();
//!
//! SagaTest::new(OrderSaga)
//!     .given([Event::Placed { cents: 995 }])
//!     .when(Message::Pay)
//!     .expect_events([Event::Paid])
//!     .expect_commands([Command::Ship])
//!     .expect_cancelled(["payment"])
//!     .expect_completed();
//!
//! SagaTest::new(OrderSaga).when(Message::Pay).expect_not_found();
//! ```
//!
//! # Stores
//!
//! Whoever implements [`MessageStore`](crate::MessageStore), [`SnapshotRepository`](crate::SnapshotRepository) or
//! [`OutboxRepository`](crate::OutboxRepository) runs the suites of [`conformance`] against it:
//!
#![cfg_attr(all(feature = "sqlite", feature = "json", feature = "bincode"), doc = "```")]
#![cfg_attr(not(all(feature = "sqlite", feature = "json", feature = "bincode")), doc = "```ignore")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use sagastore::sqlite::SqliteStore;
//! use sagastore::testkit::conformance;
//!
//! // In a test of your own: your pool, your store.
//! let folder = tempfile::tempdir()?;
//! let file = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("sagas.db")).create_if_missing(true);
//! let options = sagastore::sqlite::connect_options(file);
//! let pool = sagastore::sqlite::pool_options().connect_with(options).await?;
//! let _ = sagastore::migrate(&pool).await?;
//! let store = Arc::new(SqliteStore::default());
//!
//! let reports = [
//!     conformance::message_store(&pool, store.clone()).await,
//!     conformance::snapshot_repository(&pool, store.clone()).await,
//!     conformance::outbox_repository(&pool, store).await,
//! ];
//! for report in reports {
//!     report.assert_passed();
//!     assert!(report.not_run().is_empty(), "{report}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Faults
//!
//! [`FaultyStore`], [`FaultySnapshots`] and [`FaultyOutbox`] stand around others and fail, stall or wait where
//! [`Faults`] say, to see what a framework makes of it:
//!
#![cfg_attr(all(feature = "sqlite", feature = "json", feature = "bincode"), doc = "```")]
#![cfg_attr(not(all(feature = "sqlite", feature = "json", feature = "bincode")), doc = "```ignore")]
//! use std::sync::Arc;
//!
//! use sagastore::sqlite::SqliteStore;
//! use sagastore::testkit::{Fault, Faults, FaultyStore, Moment, Verb};
//! use sagastore::{Error, Persister};
//!
//! let faults = Faults::new();
//! let lost = Error::Disconnected { doing: "saving", source: "the cable was pulled".into() };
//! // The unit of work is committed, but nobody is told.
//! faults.on(Verb::CommitAlone, 1, Moment::After, Fault::Error(lost));
//! let store = FaultyStore::new(Arc::new(SqliteStore::default()), &faults);
//! let persister = Persister::<sqlx::Sqlite>::with_store(Arc::new(store));
//! # let _ = persister;
//! ```

pub mod conformance;
pub(crate) mod faults;
mod saga;

pub use faults::{Fault, Faults, FaultyOutbox, FaultySnapshots, FaultyStore, Gate, Moment, Verb};
pub use saga::{ExpectedCommand, ExpectedTimeout, MAX_DELIVERIES, SagaTest, TEST_START};
