use super::*;

const SMALLEST: &str = "[app]\nname = \"shop\"\n[run]\ncommand = [\"./shop\"]\n";

fn with(more: &str) -> String {
    format!("{SMALLEST}{more}")
}

fn refusal(more: &str) -> String {
    AppSpec::parse(&with(more)).unwrap_err().to_string()
}

#[test]
fn the_smallest_file_gets_the_defaults() {
    let spec = AppSpec::parse(SMALLEST).unwrap();
    assert_eq!(spec.app, "shop");
    assert_eq!(spec.run, Run { command: vec!["./shop".into()], instances: 1, workdir: String::new() });
    assert_eq!(spec.health, Health::default());
    assert_eq!(spec.stop, Stop::default());
    assert_eq!(spec.route, Route::default());
    assert_eq!(spec.keep.releases, 3);
}

#[test]
fn every_key_of_this_version_is_read() {
    let spec = AppSpec::parse(
        r#"
        [app]
        name = "shop"
        [run]
        command = ["gunicorn", "-b", "127.0.0.1:$PORT", "app:app"]
        instances = 2
        workdir = "web"
        [env]
        LOG = "info"
        LEVEL = 3
        DEBUG = true
        [health]
        startup = {path = "/up", timeout = "90s"}
        ready = {path = "/ready", interval = "500ms", timeout = "1s", rise = 2, fall = 4}
        [stop]
        signal = "SIGQUIT"
        drain = "5s"
        grace = "6s"
        [limits]
        nofile = 1024
        [restart]
        backoff = "2s..30s"
        [rollout]
        deadline = "3m"
        max_unavailable = 1
        [route]
        hosts = ["Shop.Example"]
        path = "/shop"
        policy = "round_robin"
        timeout = "20s"
        retries = 2
        [keep]
        releases = 3
        "#,
    )
    .unwrap();
    assert_eq!(spec.run.instances, 2);
    assert_eq!(spec.run.workdir, "web");
    assert_eq!(spec.env["LEVEL"], "3");
    assert_eq!(spec.env["DEBUG"], "true");
    assert_eq!(spec.health.startup.timeout, Duration::from_secs(90));
    assert_eq!(spec.health.ready.interval, Duration::from_millis(500));
    assert_eq!((spec.health.ready.rise, spec.health.ready.fall), (2, 4));
    assert_eq!(spec.stop.signal, StopSignal::Quit);
    assert_eq!((spec.stop.drain, spec.stop.grace), (Duration::from_secs(5), Duration::from_secs(6)));
    assert_eq!(spec.restart.backoff_max, Duration::from_secs(30));
    assert_eq!(spec.rollout.deadline, Duration::from_secs(180));
    assert_eq!(spec.route.hosts, BTreeSet::from(["shop.example".to_owned()]));
    assert_eq!((spec.route.path.as_str(), spec.route.retries), ("/shop", 2));
}

#[test]
fn a_mistyped_key_names_its_table_and_the_nearest_key() {
    let words = refusal("[stop]\ndrian = \"5s\"\n");
    assert!(
        words.contains("\"drian\"") && words.contains("[stop]") && words.contains("\"drain\""),
        "{words}"
    );
    let words = refusal("[helth]\n");
    assert!(words.contains("\"helth\"") && words.contains("\"health\""), "{words}");
    let words = refusal("[health]\nready = {pth = \"/\"}\n");
    assert!(words.contains("[health.ready]") && words.contains("\"path\""), "{words}");
}

#[test]
fn what_a_later_version_does_is_refused_and_not_ignored() {
    let later = [
        ("[build]\ncommand = \"make\"\n", "[build]"),
        ("[secrets]\nDB = \"db\"\n", "[secrets]"),
        ("[release]\ncommand = \"./migrate\"\n", "[release]"),
        ("[[job]]\nname = \"nightly\"\n", "[[job]]"),
        ("[static]\ndir = \"public\"\n", "[static]"),
        ("[place]\nzones = []\n", "[place]"),
        ("[limits]\nmemory = \"512M\"\n", "limits.memory"),
        ("[health]\nlive = {}\n", "health.live"),
        ("[rollout]\nmax_unavailable = 2\n", "rollout.max_unavailable = 2"),
        ("[rollout]\ncanary = 1\n", "rollout.canary"),
        ("[route]\npolicy = \"p2c\"\n", "route.policy"),
        ("[route]\nsticky = \"node\"\n", "route.sticky"),
        ("[restart]\ncrashloop = \"5/2m\"\n", "restart.crashloop"),
        ("[keep]\nreleases = 9\n", "keep.releases = 9"),
    ];
    for (text, what) in later {
        let words = refusal(text);
        assert!(words.contains("is not supported by this version") && words.contains(what), "{words}");
    }
}

#[test]
fn values_out_of_bounds_are_refused_by_their_key() {
    let bad = [
        ("[stop]\ndrain = \"2 days\"\n", "stop.drain"),
        ("[stop]\ngrace = \"soon\"\n", "stop.grace"),
        ("[stop]\nsignal = \"KILL\"\n", "stop.signal"),
        ("[limits]\nnofile = 3\n", "limits.nofile"),
        ("[restart]\nbackoff = \"60s..1s\"\n", "restart.backoff"),
        ("[restart]\nbackoff = \"1s\"\n", "restart.backoff"),
        ("[health]\nready = {path = \"ready\"}\n", "health.ready.path"),
        ("[health]\nready = {path = \"/a\\r\\nX: y\"}\n", "health.ready.path"),
        ("[health]\nready = {rise = 0}\n", "health.ready.rise"),
        ("[health]\nready = \"/up\"\n", "health.ready"),
        ("[route]\nhosts = [\"a b\"]\n", "route.hosts"),
        ("[route]\nretries = 99\n", "route.retries"),
        ("[env]\nPORT = \"1\"\n", "env.PORT"),
        ("[env]\nHOLDFAST_X = \"1\"\n", "env.HOLDFAST_X"),
    ];
    for (text, key) in bad {
        let words = refusal(text);
        assert!(words.contains(key), "{words}");
    }
}

#[test]
fn an_app_needs_a_name_that_fits_a_host_name_and_a_command() {
    let long = "a".repeat(64);
    for name in ["", "Shop", "a_b", "-a", "a-", "../x", "a.b", long.as_str()] {
        let text = format!("[app]\nname = {name:?}\n[run]\ncommand = [\"x\"]\n");
        assert!(AppSpec::parse(&text).unwrap_err().to_string().contains("app.name"), "{name}");
    }
    for text in ["", "[app]\n", "[run]\ncommand = [\"x\"]\n"] {
        assert!(AppSpec::parse(text).unwrap_err().to_string().contains("app.name"));
    }
    for run in ["", "[run]\n", "[run]\ncommand = []\n", "[run]\ncommand = [\"\"]\n"] {
        let text = format!("[app]\nname = \"shop\"\n{run}");
        assert!(AppSpec::parse(&text).unwrap_err().to_string().contains("run"));
    }
}

#[test]
fn an_app_can_not_have_the_name_of_the_redis_ports_own_user() {
    let text = SMALLEST.replace("shop", "default");
    let refusal = AppSpec::parse(&text).unwrap_err().to_string();
    assert_eq!(
        refusal,
        "holdfast.toml: app.name can not be \"default\": the Redis port's own user has that name"
    );
    assert!(AppSpec::parse(&SMALLEST.replace("shop", "default-shop")).is_ok());
}

#[test]
fn a_working_folder_outside_the_release_is_refused() {
    for workdir in ["/etc", "..", "a/../..", "a//b"] {
        let text = format!("[app]\nname = \"shop\"\n[run]\ncommand = [\"x\"]\nworkdir = {workdir:?}\n");
        assert!(AppSpec::parse(&text).unwrap_err().to_string().contains("run.workdir"), "{workdir}");
    }
}

#[test]
fn a_file_that_is_too_large_is_not_parsed() {
    let text = with(&format!("# {}\n", "x".repeat(SPEC_BYTES_MAX)));
    assert!(matches!(AppSpec::parse(&text), Err(SpecError::TooLarge { .. })));
}
