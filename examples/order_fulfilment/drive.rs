//! Delivers the messages, from many tasks at once.
use std::collections::VecDeque;
use std::ops::Add;

use anyhow::{Result, ensure};
use sagastore::{Backend, Executed, Inbound, Persister};
use sqlx::Pool;
use tokio::task::JoinSet;

use crate::messages::{Delivery, Lane, Sent};
use crate::saga::{OrderSaga, handle};
use crate::support::Progress;

/// Instances that one task has under way at a time.
const OPEN_LANES: usize = 16;

/// What became of the deliveries.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) units: u64,
    pub(crate) repeats: u64,
    pub(crate) conflicts: u64,
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            units: self.units + other.units,
            repeats: self.repeats + other.repeats,
            conflicts: self.conflicts + other.conflicts,
        }
    }
}

pub(crate) struct Driver<DB: Backend> {
    pub(crate) persister: Persister<DB>,
    pub(crate) pool: Pool<DB>,
    pub(crate) progress: Progress,
}

impl<DB: Backend> Clone for Driver<DB> {
    fn clone(&self) -> Self {
        Self { persister: self.persister.clone(), pool: self.pool.clone(), progress: self.progress.clone() }
    }
}

impl<DB: Backend> Driver<DB> {
    /// Deals the lanes out to tasks; ends with the first error of any.
    pub(crate) async fn drive(&self, lanes: Vec<Lane>, workers: usize) -> Result<Tally> {
        let mut dealt: Vec<VecDeque<Lane>> = (0..workers).map(|_| VecDeque::new()).collect();
        for (lane, worker) in lanes.into_iter().zip((0..workers).cycle()) {
            dealt.get_mut(worker).expect("BUG: there are so many workers").push_back(lane);
        }
        let mut tasks = JoinSet::new();
        for lanes in dealt {
            let driver = self.clone();
            tasks.spawn(async move { driver.work_through(lanes).await });
        }
        let mut tally = Tally::default();
        while let Some(ended) = tasks.join_next().await {
            tally = tally + ended??;
        }
        Ok(tally)
    }

    /// Takes turns among the open lanes.
    async fn work_through(&self, mut lanes: VecDeque<Lane>) -> Result<Tally> {
        let mut open: VecDeque<Lane> = lanes.drain(..lanes.len().min(OPEN_LANES)).collect();
        let mut tally = Tally::default();
        while let Some(mut lane) = open.pop_front() {
            match lane.pop_front() {
                Some(delivery) => {
                    tally = tally + self.deliver(delivery).await?;
                    open.push_back(lane);
                }
                None => open.extend(lanes.pop_front()),
            }
        }
        Ok(tally)
    }

    async fn deliver(&self, delivery: Delivery) -> Result<Tally> {
        let tally = match &delivery {
            Delivery::Once(sent) => self.deliver_once(sent).await?,
            Delivery::TwiceAtOnce(sent) => {
                let (one, other) = tokio::try_join!(self.deliver_once(sent), self.deliver_once(sent))?;
                ensure!(one.units + other.units <= 1, "message {} to {:?} took effect twice", sent.id, sent.instance);
                one + other
            }
        };
        self.progress.add(delivery.copies());
        Ok(tally)
    }

    pub(crate) async fn deliver_once(&self, sent: &Sent) -> Result<Tally> {
        let (id, message) = (&sent.instance, Some(Inbound::from(sent.id)));
        let executed = self.persister.execute(&self.pool, &OrderSaga, id, message, |unit| handle(unit, &sent.message));
        Ok(match executed.await? {
            Executed::Done { conflicts, .. } => Tally { units: 1, repeats: 0, conflicts: conflicts.into() },
            Executed::AlreadyHandled(_) => Tally { units: 0, repeats: 1, conflicts: 0 },
        })
    }
}
