//! A saga with small events and a state of any size.

use fastrand::Rng;
use sagastore::{Envelope, Saga, message_types};
use serde::{Deserialize, Serialize};

use super::order::text;

pub(crate) struct Stock;

#[derive(Serialize, Deserialize)]
pub(crate) enum StockEvent {
    Filled { articles: u32 },
    Sold { article: u32 },
}
message_types!(StockEvent { Filled: "StockFilled" 1, Sold: "StockSold" 1 });

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StockState {
    articles: Vec<Article>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Article {
    number: String,
    title: String,
    quantity: u32,
    cents: u64,
}

impl StockState {
    /// Bytes of an article in a snapshot, about.
    pub(crate) const ARTICLE_BYTES: u32 = 64;

    fn article(random: &mut Rng) -> Article {
        Article {
            number: text(random, 16),
            title: text(random, 37),
            quantity: random.u32(300..60_000),
            cents: random.u64(70_000..10_000_000),
        }
    }
}

impl Saga for Stock {
    type Data = StockState;
    type Event = StockEvent;

    fn persistence_key(&self) -> &str {
        "bench-stock"
    }

    fn new_data(&self) -> StockState {
        StockState::default()
    }

    fn apply_event(&self, state: &mut StockState, event: &StockEvent, _: &Envelope) {
        match event {
            StockEvent::Filled { articles } => {
                let mut random = Rng::with_seed(1024);
                state.articles = (0..*articles).map(|_| StockState::article(&mut random)).collect();
            }
            StockEvent::Sold { article } => {
                let count = state.articles.len();
                let index = usize::try_from(*article).expect("small") % count;
                state.articles[index].quantity = state.articles[index].quantity.wrapping_sub(1);
            }
        }
    }
}
