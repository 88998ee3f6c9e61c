//! All replicas, either in processes of this program or in tasks of this process.

use std::{env, process::Stdio};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Mutex,
};

use crate::{
    plan,
    wire::{Answer, Log, Order, ROLE, Setup, View},
    worker::Worker,
};

pub struct Fleet(Vec<Member>);

enum Member {
    Here(Worker),
    Process(Box<Mutex<Process>>),
}

impl Fleet {
    /// Starts the replicas of a setup.
    pub async fn start(setup: &Setup) -> Fleet {
        if !plan::are_processes(setup.replicas.len()) {
            return Fleet(vec![Member::Here(Worker::start(setup).await)]);
        }
        let one = async |number| {
            let setup = Setup {
                replicas: number..number + 1,
                ..setup.clone()
            };
            Member::Process(Box::new(Mutex::new(Process::start(&setup).await)))
        };
        Fleet(join_all(setup.replicas.clone().map(one)).await)
    }

    pub async fn set_dead(&self, dead: bool) {
        self.order(Order::Dead(dead)).await;
    }

    pub async fn views(&self) -> Vec<View> {
        let answers = self.order(Order::Look).await.into_iter();
        let views = answers.flat_map(|answer| match answer {
            Answer::Views(views) => views,
            other => panic!("a look is answered by {other:?}"),
        });
        views.collect()
    }

    /// The log of each replica since the last call.
    pub async fn logs(&self) -> Vec<Log> {
        let answers = self.order(Order::Take).await.into_iter();
        let logs = answers.flat_map(|answer| match answer {
            Answer::Logs(logs) => logs,
            other => panic!("a log is asked for, the answer is {other:?}"),
        });
        logs.collect()
    }

    pub async fn stop(&self) {
        self.order(Order::Stop).await;
    }

    async fn order(&self, order: Order) -> Vec<Answer> {
        let answer = async |member: &Member| match member {
            Member::Here(worker) => worker.obey(order.clone()).await,
            Member::Process(process) => process.lock().await.obey(&order).await,
        };
        join_all(self.0.iter().map(answer)).await
    }
}

struct Process {
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// The process ends when this is dropped.
    _process: Child,
}

impl Process {
    async fn start(setup: &Setup) -> Process {
        let program = env::current_exe().expect("this program is a file");
        let process = Command::new(program)
            .env(ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut process = process.expect("a process starts");
        let answers = process.stdout.take().expect("its stdout is piped");
        let mut process = Process {
            orders: process.stdin.take().expect("its stdin is piped"),
            answers: BufReader::new(answers).lines(),
            _process: process,
        };
        process.say(setup).await;
        process
    }

    async fn obey(&mut self, order: &Order) -> Answer {
        self.say(order).await;
        let line = self.answers.next_line().await.expect("its stdout is read");
        let line = line.expect("a replica answers before it ends");
        serde_json::from_str(&line).expect("answers are JSON")
    }

    async fn say(&mut self, what: &impl serde::Serialize) {
        let line = serde_json::to_string(what).expect("it can be JSON") + "\n";
        let said = self.orders.write_all(line.as_bytes()).await;
        said.expect("a replica lives until it is told to stop");
    }
}
