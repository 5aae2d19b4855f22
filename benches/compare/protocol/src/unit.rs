use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::{Line, Peer, SHORT_HISTORY};

const WARM_UP: Duration = Duration::from_millis(100);
const RUN: Duration = Duration::from_millis(400);
/// Clients have instances of their own, so that there are no conflicts.
const INSTANCES_OF_A_CLIENT: u32 = 4;
/// And together at least so many, so that histories stay short.
const INSTANCES: u32 = 64;
/// Instances that are started at the same time.
const STARTERS: u32 = 8;

#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) round: u32,
    pub(crate) clients: u32,
    pub(crate) events: u32,
}

impl Load {
    fn instances_of_a_client(self) -> u32 {
        INSTANCES_OF_A_CLIENT.max(INSTANCES / self.clients)
    }

    fn instance(self, number: u32) -> String {
        let Self { round, clients, events } = self;
        format!("short-{round}-{clients}-{events}-{number}")
    }

    pub(crate) async fn measure<P: Peer>(self, peer: &P) {
        self.start_instances(peer).await;
        let (start, mut tasks) = (Instant::now(), JoinSet::new());
        for client in 0..self.clients {
            tasks.spawn(self.work(peer.clone(), client, start));
        }
        let mut taken: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
        taken.sort_unstable();
        let at = |hundredths: usize| taken[(taken.len() - 1) * hundredths / 100].as_secs_f64() * 1e6;
        Line::Units {
            events: self.events,
            clients: self.clients,
            per_second: taken.len() as f64 / RUN.as_secs_f64(),
            p50_us: at(50),
            p90_us: at(90),
            p99_us: at(99),
        }
        .print();
    }

    async fn start_instances<P: Peer>(self, peer: &P) {
        let (all, mut tasks) = (self.clients * self.instances_of_a_client(), JoinSet::new());
        for starter in 0..STARTERS {
            let peer = peer.clone();
            tasks.spawn(async move {
                for number in (starter..all).step_by(STARTERS as usize) {
                    peer.start(&self.instance(number), SHORT_HISTORY).await;
                }
            });
        }
        tasks.join_all().await;
    }

    /// How long the units of work took that ended in the time that counts.
    async fn work(self, peer: impl Peer, client: u32, start: Instant) -> Vec<Duration> {
        let own = self.instances_of_a_client();
        let names: Vec<String> = (0..own).map(|number| self.instance(client * own + number)).collect();
        let mut taken = Vec::new();
        for name in names.iter().cycle() {
            let before = Instant::now();
            peer.unit(name, self.events).await;
            match start.elapsed() {
                end if end > WARM_UP + RUN => break,
                end if end > WARM_UP => taken.push(before.elapsed()),
                _ => {}
            }
        }
        taken
    }
}
