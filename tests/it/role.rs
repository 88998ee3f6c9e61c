//! Runs a test of this program again, in its own process and with a role.

use std::{
    env,
    io::Read,
    process::{Child, Command, Stdio},
};

/// The variable that holds the role.
const ROLE: &str = "COMMONTRIP_TEST_ROLE";

/// The role of this process, if [`Process::start`] started it.
pub fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// Waits until the parent process closes standard input, or ends.
pub async fn until_let_go() {
    let end = || std::io::stdin().read_to_end(&mut Vec::new());
    tokio::task::spawn_blocking(end).await.unwrap().unwrap();
}

/// A process that is killed on drop.
pub struct Process(Child);

impl Process {
    /// Runs a test by its full name.
    pub fn start(test: &str, role: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture"]);
        command.env(ROLE, role).stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: &str) {
        let words = [signal.to_owned(), self.id().to_string()];
        assert!(Command::new("kill").args(words).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
