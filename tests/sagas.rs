//! The sagas of the example `sagas`, tested without a database.

use std::time::Duration;

use sagastore::InstanceId;
use sagastore::testkit::SagaTest;

#[allow(dead_code, reason = "only the sagas are looked at here")]
#[path = "../examples/sagas/town/mod.rs"]
mod town;

use town::account::{Account, AccountEvent, AccountMessage};
use town::order::{Order, OrderEvent, OrderMessage, PAYMENT, WarehouseCommand};
use town::transfer::{Step, Transfer, TransferEvent, TransferMessage};

const WITHIN: Duration = Duration::from_secs(600);

fn transfer() -> SagaTest<Transfer> {
    SagaTest::new(Transfer).with_instance_id(&InstanceId::new("t1").expect("an id"))
}

fn started() -> TransferEvent {
    TransferEvent::Started { from: "ann".into(), to: "bob".into(), cents: 500 }
}

fn id() -> String {
    "t1".to_owned()
}

#[test]
fn a_transfer_takes_the_money_and_then_gives_it() {
    transfer()
        .when(TransferMessage::Start { transfer: id(), from: "ann".into(), to: "bob".into(), cents: 500 })
        .expect_events([started()])
        .expect_commands([AccountMessage::Debit { account: "ann".into(), cents: 500, transfer: id() }])
        .when(TransferMessage::Debited { transfer: id() })
        .expect_events([TransferEvent::MoneyTaken])
        .expect_commands([AccountMessage::Credit { account: "bob".into(), cents: 500, transfer: id() }])
        .when(TransferMessage::Credited { transfer: id() })
        .expect_events([TransferEvent::Completed])
        .expect_no_commands()
        .expect_completed();
}

#[test]
fn a_refused_credit_gives_the_money_back() {
    transfer()
        .given([started(), TransferEvent::MoneyTaken])
        .when(TransferMessage::Refused { transfer: id() })
        .expect_events([TransferEvent::GivenBack])
        .expect_commands([AccountMessage::Refund { account: "ann".into(), cents: 500 }])
        .expect_state(|data| assert_eq!(data.step, Step::GivenBack))
        .expect_completed();
}

#[test]
fn a_refused_debit_ends_the_transfer() {
    let refused = transfer().given([started()]).when(TransferMessage::Refused { transfer: id() });
    refused.expect_events([TransferEvent::Refused]).expect_no_commands().expect_completed();
}

#[test]
fn an_answer_to_nothing_is_an_error_and_one_for_nobody_is_passed_over() {
    transfer().given([started()]).when(TransferMessage::Credited { transfer: id() }).expect_error("wrong time");
    transfer().when(TransferMessage::Debited { transfer: id() }).expect_not_found();
}

#[test]
fn an_account_gives_no_more_than_it_has() {
    let debit = |cents| AccountMessage::Debit { account: "ann".into(), cents, transfer: id() };
    SagaTest::new(Account)
        .given([AccountEvent::Changed { cents: 500 }])
        .when(debit(501))
        .expect_no_events()
        .expect_commands([TransferMessage::Refused { transfer: id() }])
        .when(debit(500))
        .expect_events([AccountEvent::Changed { cents: -500 }])
        .expect_commands([TransferMessage::Debited { transfer: id() }])
        .expect_state_eq(&0);
}

fn order() -> SagaTest<Order> {
    let (order, invoice, item) = ("o1".to_owned(), "i1".to_owned(), "tea".to_owned());
    SagaTest::new(Order { payment_within: WITHIN })
        .when(OrderMessage::Place { order: order.clone(), invoice: invoice.clone(), item: item.clone() })
        .expect_events([OrderEvent::Placed { order, invoice, item }])
        .expect_commands([WarehouseCommand::Reserve { item: "tea".into() }])
        .expect_timeouts([(PAYMENT, WITHIN, OrderMessage::PaymentOverdue)])
}

#[test]
fn a_paid_order_is_shipped_and_waits_for_nothing() {
    order()
        .advance(WITHIN - Duration::from_secs(1))
        .when(OrderMessage::Paid { invoice: "i1".into() })
        .expect_events([OrderEvent::Paid])
        .expect_commands([WarehouseCommand::Ship { item: "tea".into() }])
        .expect_cancelled([PAYMENT])
        .expect_completed()
        .advance(WITHIN)
        .expect_nothing();
}

#[test]
fn an_order_that_is_not_paid_in_time_is_cancelled() {
    order()
        .advance(WITHIN)
        .expect_events([OrderEvent::Cancelled])
        .expect_commands([WarehouseCommand::Release { item: "tea".into() }])
        .expect_completed()
        .when(OrderMessage::Paid { invoice: "i1".into() })
        .expect_passed_over();
}
