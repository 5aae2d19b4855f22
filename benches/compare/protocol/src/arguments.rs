use std::env;

/// `TASK VARIANT DATABASE ROUND`, as the driver calls a program.
#[derive(Clone, Debug)]
pub struct Arguments {
    pub task: Task,
    /// How the library is used; `default` where there is one way only.
    pub variant: String,
    /// The URL of a database of its own, which is there and empty before `prepare`.
    pub database: String,
    pub round: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Makes the tables, and the instances that are only read.
    Prepare,
    /// Measures everything once.
    Round,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Sqlite,
    Postgres,
    MySql,
}

impl Arguments {
    pub fn read() -> Self {
        let given: Vec<String> = env::args().skip(1).collect();
        let [task, variant, database, round] = given.as_slice() else {
            panic!("usage: prepare|round VARIANT DATABASE ROUND");
        };
        let task = match task.as_str() {
            "prepare" => Task::Prepare,
            "round" => Task::Round,
            other => panic!("no such task: {other}"),
        };
        let round = round.parse().expect("the round is a number");
        Self { task, variant: variant.clone(), database: database.clone(), round }
    }

    /// Whether the program makes its tables.
    pub fn is_preparing(&self) -> bool {
        self.task == Task::Prepare
    }

    pub fn server(&self) -> Server {
        match self.database.split(':').next() {
            Some("sqlite") => Server::Sqlite,
            Some("postgres") => Server::Postgres,
            Some("mysql") => Server::MySql,
            _ => panic!("not the URL of a database: {}", self.database),
        }
    }
}
