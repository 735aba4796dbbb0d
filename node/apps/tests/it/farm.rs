//! A supervisor with its folders, and apps made of a shell or of Python.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use node_apps::{AppSpec, AppState, AppStatus, Drain, Launch, Statuses, Supervisor, SupervisorConfig};
use proto::ids::ReleaseId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longer than anything here takes on a busy machine; a test that gets here has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Farm {
    pub supervisor: Supervisor,
    pub drains: Arc<Drains>,
    pub folder: Arc<tempfile::TempDir>,
    pub stop: CancellationToken,
    pub tracker: TaskTracker,
    statuses: watch::Receiver<Statuses>,
}

/// Which instances were drained, in order; and whether that takes until a token is cancelled.
#[derive(Default)]
pub struct Drains {
    pub asked: Mutex<Vec<String>>,
    pub hold: Mutex<Option<CancellationToken>>,
}

impl Drain for Drains {
    fn drain(&self, _app: &str, instance: &str) -> BoxFuture<'static, ()> {
        self.asked.lock().unwrap().push(instance.to_owned());
        let hold = self.hold.lock().unwrap().clone();
        Box::pin(async move {
            if let Some(hold) = hold {
                hold.cancelled().await;
            }
        })
    }
}

impl Farm {
    pub async fn new() -> Self {
        Self::in_folder(Arc::new(tempfile::tempdir().unwrap())).await
    }

    pub async fn in_folder(folder: Arc<tempfile::TempDir>) -> Self {
        let config = SupervisorConfig {
            records: records(folder.path()),
            logs: folder.path().join("logs"),
            ports: 20_000..=29_999,
            launcher: vec![launcher()],
        };
        let (drains, tracker, stop) =
            (Arc::<Drains>::default(), TaskTracker::new(), CancellationToken::new());
        let drain = Arc::clone(&drains) as Arc<dyn Drain>;
        let supervisor = Supervisor::start(config, drain, &tracker, stop.clone()).await.unwrap();
        std::fs::create_dir_all(folder.path().join("root")).unwrap();
        let statuses = supervisor.watch();
        Self { supervisor, drains, folder, stop, tracker, statuses }
    }

    /// An app of one shell command.
    pub fn run(&self, release: u8, attempt: u64, command: &str, more: &str) {
        let argv = serde_json::to_string(&["sh", "-c", command]).unwrap();
        self.run_argv(release, attempt, &argv, more);
    }

    /// A server that answers, from a program that nobody here wrote.
    pub fn run_server(&self, release: u8, attempt: u64, more: &str) {
        self.run_argv(
            release,
            attempt,
            r#"["python3", "-m", "http.server", "--bind", "127.0.0.1", "$PORT"]"#,
            more,
        );
    }

    fn run_argv(&self, release: u8, attempt: u64, argv: &str, more: &str) {
        let text = format!("[app]\nname = \"shop\"\n[run]\ncommand = {argv}\n{more}");
        let launch = Launch {
            release: ReleaseId([release; 32]),
            version: format!("v{release}"),
            spec: AppSpec::parse(&text).unwrap(),
            root: self.root(),
            environment: BTreeMap::from([(
                "REDIS_URL".to_owned(),
                "redis://shop:secret@127.0.0.1:1/0".to_owned(),
            )]),
        };
        self.supervisor.run(launch, attempt);
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Waits until the app is so.
    pub async fn until(&mut self, what: &str, is: impl Fn(&AppStatus) -> bool) -> AppStatus {
        let app = |statuses: &Statuses| statuses.get("shop").is_some_and(&is);
        let found = tokio::time::timeout(PATIENCE, self.statuses.wait_for(app)).await;
        match found {
            Ok(statuses) => statuses.unwrap().get("shop").unwrap().clone(),
            Err(_) => panic!("not {what}: {:#?}", self.supervisor.watch().borrow()),
        }
    }

    pub async fn ready(&mut self, release: u8) -> AppStatus {
        self.until("ready", |app| {
            app.state == AppState::Ready && app.release == Some(ReleaseId([release; 32]))
        })
        .await
    }

    /// Waits for a file that an instance writes, and reads it.
    pub async fn file(&self, name: &str) -> String {
        let path = self.root().join(name);
        let read = async {
            loop {
                match std::fs::read_to_string(&path) {
                    Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("no {name}"))
    }
}

pub fn records(folder: &Path) -> PathBuf {
    folder.join("records")
}

/// Waits until a process is gone, or waits for its parent.
pub async fn gone(pid: i32) {
    let ended = async {
        while is_alive(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap_or_else(|_| panic!("process {pid} goes on"));
}

pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Field 22 of the process's stat.
pub fn start_time(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap()
}

/// `cargo test` builds the examples beside the tests.
pub fn launcher() -> OsString {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples/exec_instance");
    assert!(path.exists(), "build it with `cargo build -p node-apps --examples`");
    path.into_os_string()
}
