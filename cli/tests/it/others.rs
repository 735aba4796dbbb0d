//! Programs that nobody here wrote.

use std::path::Path;
use std::process::Command;

use crate::farm::{Farm, has};

#[tokio::test(flavor = "multi_thread")]
async fn caddy_and_a_python_app_with_redis_sessions_run_as_they_are() {
    let caddy = has("caddy", "caddy");
    let python = has("python3", "python3") && has_redis_py();
    if !caddy && !python {
        return;
    }
    let farm = Farm::start(&["--no-app"]);
    if caddy {
        let dir = farm.dir.path().join("site");
        write_caddy(&dir);
        farm.at(0, &["deploy", dir.to_str().unwrap(), "--version", "1"]).ok();
        for node in 0..3 {
            let answer = reqwest::get(farm.url(node, "/caddy/")).await.unwrap();
            assert_eq!(answer.text().await.unwrap(), "by caddy");
        }
    }
    if python {
        let dir = farm.dir.path().join("counter");
        write_counter(&dir);
        farm.at(1, &["deploy", dir.to_str().unwrap(), "--version", "1"]).ok();
        let client = reqwest::Client::builder().cookie_store(true).build().unwrap();
        let mut places = std::collections::BTreeSet::new();
        for visit in 1..=12 {
            let answer = client.get(farm.url(visit % 3, "/counter")).send().await.unwrap();
            let text = answer.text().await.unwrap();
            let (count, node) = text.split_once(' ').unwrap_or_else(|| panic!("{text}"));
            assert_eq!(count.parse::<usize>().unwrap(), visit, "the session is the same on every server");
            places.insert(node.to_owned());
        }
        assert!(places.len() > 1, "{places:?}");
    }
}

fn has_redis_py() -> bool {
    let found = Command::new("python3")
        .args(["-c", "import redis"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        println!("not run: redis-py is absent (apt-get install python3-redis)");
    }
    found
}

fn write_caddy(dir: &Path) {
    std::fs::create_dir_all(dir.join("site/caddy")).unwrap();
    std::fs::write(dir.join("site/caddy/index.html"), "by caddy").unwrap();
    std::fs::write(
        dir.join("Caddyfile"),
        "{\n\tadmin off\n\tauto_https off\n}\nhttp://:{$PORT} {\n\tbind 127.0.0.1\n\troot * site\n\tfile_server\n}\n",
    )
    .unwrap();
    std::fs::write(
        dir.join("holdfast.toml"),
        "[app]\nname = \"site\"\n[run]\ncommand = [\"caddy\", \"run\", \"--config\", \"Caddyfile\", \"--adapter\", \"caddyfile\"]\n\
         [env]\nXDG_DATA_HOME = \"/tmp\"\nXDG_CONFIG_HOME = \"/tmp\"\nHOME = \"/tmp\"\n\
         [health]\nready = { path = \"/caddy/\", interval = \"200ms\" }\n[route]\npath = \"/caddy\"\n",
    )
    .unwrap();
}

/// Counts a visitor's visits in a session of redis-py.
fn write_counter(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(
        dir.join("app.py"),
        r#"
import http.cookies, http.server, os, secrets, redis
store = redis.Redis.from_url(os.environ["REDIS_URL"])
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        cookies = http.cookies.SimpleCookie(self.headers.get("Cookie", ""))
        session = cookies["sid"].value if "sid" in cookies else secrets.token_hex(16)
        if self.path.startswith("/counter"):
            count = store.incr("session:" + session)
            store.expire("session:" + session, 1200)
            body = f"{count} {os.environ['HOLDFAST_NODE']}".encode()
        else:
            body = b"ready"
        self.send_response(200)
        self.send_header("Set-Cookie", f"sid={session}; Path=/")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#,
    )
    .unwrap();
    std::fs::write(
        dir.join("holdfast.toml"),
        "[app]\nname = \"counter\"\n[run]\ncommand = [\"python3\", \"app.py\"]\n\
         [health]\nready = { path = \"/ready\", interval = \"200ms\" }\n[route]\npath = \"/counter\"\n",
    )
    .unwrap();
}
