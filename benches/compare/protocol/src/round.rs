use crate::unit::Load;
use crate::{Arguments, CLIENTS, EVENTS, Peer, Task, load};

/// Does what a program was called for.
pub async fn run(arguments: &Arguments, peer: &impl Peer) {
    match arguments.task {
        Task::Prepare => load::prepare(peer).await,
        Task::Round => {
            for events in EVENTS {
                for clients in CLIENTS {
                    Load { round: arguments.round, clients, events }.measure(peer).await;
                }
            }
            load::measure(peer).await;
        }
    }
}
