use std::time::Instant;

use proto::log::{Condition, Deadline, Set, deadline};

use super::*;
use crate::client::Login;
use crate::frame::Protocol;

struct Users;

impl Accounts for Users {
    fn authenticate(&self, user: &str, password: &str) -> Option<String> {
        (user == "shop" && password == "secret").then(|| "shop".to_owned())
    }

    fn default_keyspace(&self) -> Option<String> {
        None
    }

    fn info(&self) -> StoreInfo {
        StoreInfo { used_bytes: 7, max_bytes: 9, holdfast: vec![("node", "node-1".to_owned())] }
    }
}

fn stranger() -> Client {
    Client {
        id: 1,
        address: "127.0.0.1:50000".parse().unwrap(),
        local: "127.0.0.1:7379".parse().unwrap(),
        connected: Instant::now(),
        protocol: Protocol::default(),
        login: None,
        database: 0,
        name: Bytes::new(),
        library_name: Bytes::new(),
        library_version: Bytes::new(),
    }
}

fn member() -> Client {
    Client { login: Some(Login { user: "shop".to_owned(), keyspace: "shop".to_owned() }), ..stranger() }
}

fn run_as(client: &mut Client, line: &str) -> Result<Action, CommandError> {
    let args: Vec<Bytes> =
        line.split_whitespace().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
    let clients = Clients::default();
    let mut context =
        Context { client, clients: &clients, accounts: &Users, clients_max: 10, client_changed: false };
    run(&mut context, &args)
}

fn error(line: &str) -> String {
    run_as(&mut member(), line).unwrap_err().to_string()
}

fn ops(line: &str) -> Vec<Op> {
    match run_as(&mut member(), line) {
        Ok(Action::Store { ops, .. }) => ops,
        other => panic!("{line}: {other:?}"),
    }
}

fn set(line: &str) -> Set {
    match ops(line).remove(0).kind {
        Some(op::Kind::Set(set)) => set,
        other => panic!("{line}: {other:?}"),
    }
}

fn answer(client: &mut Client, line: &str) -> Frame {
    match run_as(client, line) {
        Ok(Action::Answer(frame)) => frame,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_table_is_in_order_and_finds_names_in_any_case() {
    assert!(table::TABLE.is_sorted_by(|one, other| one.name < other.name));
    for command in table::TABLE {
        assert_eq!(find(command.name.to_ascii_uppercase().as_bytes()).unwrap().name, command.name);
    }
    assert!(find(b"hset").is_none());
}

#[test]
fn what_is_not_in_the_table_is_unknown_in_redis_words() {
    assert_eq!(error("HSET h f v"), "ERR unknown command 'HSET', with args beginning with: 'h' 'f' 'v' ");
    assert_eq!(error("MULTI"), "ERR unknown command 'MULTI', with args beginning with: ");
    assert_eq!(error("CLIENT KILL x"), "ERR unknown subcommand 'KILL'. Try CLIENT HELP.");
    let many = format!("NOPE {}", "x".repeat(1_000));
    assert!(error(&many).len() < 300);
}

#[test]
fn commands_count_their_arguments() {
    assert_eq!(error("GET"), "ERR wrong number of arguments for 'get' command");
    assert_eq!(error("get a b"), "ERR wrong number of arguments for 'get' command");
    assert_eq!(error("SET a"), "ERR wrong number of arguments for 'set' command");
    assert_eq!(error("MSET a 1 b"), "ERR wrong number of arguments for 'mset' command");
    assert_eq!(error("CLIENT SETNAME"), "ERR wrong number of arguments for 'client|setname' command");
}

#[test]
fn set_takes_every_option_once_and_in_any_order() {
    let after = |ms| Some(Deadline { at: Some(deadline::At::AfterMs(ms)) });
    let at = |ms| Some(Deadline { at: Some(deadline::At::AbsoluteMs(ms)) });
    let both = set("SET a 1 get px 1500 NX");
    assert_eq!((both.deadline, both.get, both.condition()), (after(1_500), true, Condition::Nx));
    assert_eq!(set("SET a 1 EX 2").deadline, after(2_000));
    assert_eq!(set("SET a 1 EXAT 2").deadline, at(2_000));
    assert_eq!(set("SET a 1 PXAT 2").deadline, at(2));
    assert!(set("SET a 1 XX KEEPTTL").keep_ttl);
    for line in ["NX XX", "NX NX", "EX 1 PX 1", "KEEPTTL EX 1", "EX 1 KEEPTTL", "EX", "WHAT"] {
        assert_eq!(error(&format!("SET a 1 {line}")), "ERR syntax error", "{line}");
    }
    for line in ["EX 0", "PX -1", "EXAT 0", "EX 9223372036854775807"] {
        assert_eq!(error(&format!("SET a 1 {line}")), "ERR invalid expire time in 'set' command", "{line}");
    }
    assert_eq!(error("SET a 1 EX +1"), "ERR value is not an integer or out of range");
}

#[test]
fn expire_checks_that_its_conditions_fit_together() {
    assert_eq!(
        error("EXPIRE a 1 NX GT"),
        "ERR NX and XX, GT or LT options at the same time are not compatible"
    );
    assert_eq!(error("PEXPIRE a 1 GT LT"), "ERR GT and LT options at the same time are not compatible");
    assert_eq!(error("EXPIREAT a 1 QQ"), "ERR Unsupported option QQ");
    assert_eq!(error("EXPIRE a 9223372036854775807"), "ERR invalid expire time in 'expire' command");
    let Some(op::Kind::Expire(expire)) = ops("EXPIRE a -5 XX GT").remove(0).kind else { panic!("no expire") };
    assert_eq!(expire.deadline, Some(Deadline { at: Some(deadline::At::AbsoluteMs(0)) }));
    assert!(expire.if_some && expire.if_later && !expire.if_none && !expire.if_sooner);
}

#[test]
fn the_smallest_number_can_not_be_subtracted() {
    assert_eq!(error("DECRBY n -9223372036854775808"), "ERR decrement would overflow");
}

#[test]
fn databases_are_keyspaces_beside_the_app_s() {
    let mut client = member();
    let keyspace = |client: &mut Client| match run_as(client, "GET a") {
        Ok(Action::Store { ops, .. }) => ops[0].keyspace.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(keyspace(&mut client), "shop");
    assert_eq!(answer(&mut client, "SELECT 15"), Frame::OK);
    assert_eq!(keyspace(&mut client), "shop:15");
    assert_eq!(error("SELECT 16"), "ERR DB index is out of range");
    assert_eq!(error("SELECT x"), "ERR invalid DB index");
    answer(&mut client, "SELECT 0");
    assert_eq!(keyspace(&mut client), "shop");
}

#[test]
fn a_stranger_can_authenticate_and_nothing_else() {
    let mut client = stranger();
    for line in ["GET a", "PING", "INFO", "CLIENT LIST", "GET"] {
        assert_eq!(run_as(&mut client, line).unwrap_err(), CommandError::NoAuth);
    }
    assert_eq!(run_as(&mut client, "HELLO 3").unwrap_err(), CommandError::NoAuthHello);
    assert_eq!(run_as(&mut client, "AUTH shop wrong").unwrap_err(), CommandError::WrongPassword);
    assert_eq!(run_as(&mut client, "AUTH secret").unwrap_err(), CommandError::WrongPassword);
    assert_eq!(client.login, None);
    assert_eq!(answer(&mut client, "AUTH shop secret"), Frame::OK);
    assert_eq!(client.login, member().login);
    answer(&mut client, "RESET");
    assert_eq!(client.login, None, "back to how it began");
}

#[test]
fn hello_changes_all_that_it_names_or_nothing() {
    let mut client = stranger();
    assert_eq!(run_as(&mut client, "HELLO 4").unwrap_err(), CommandError::NoProto);
    assert_eq!(run_as(&mut client, "HELLO x").unwrap_err(), CommandError::BadProto);
    assert_eq!(run_as(&mut client, "HELLO 3 AUTH shop").unwrap_err(), CommandError::Syntax);
    assert_eq!(
        run_as(&mut client, "HELLO 3 AUTH shop wrong SETNAME me").unwrap_err(),
        CommandError::WrongPassword
    );
    assert_eq!((client.protocol, client.name.len()), (Protocol::Resp2, 0));
    let Frame::Map(greeting) = answer(&mut client, "HELLO 3 AUTH shop secret SETNAME me") else {
        panic!("no map")
    };
    assert!(greeting.contains(&(Frame::text("proto"), Frame::Integer(3))));
    assert_eq!((client.protocol, &client.name[..]), (Protocol::Resp3, &b"me"[..]));
}

#[test]
fn a_client_says_what_it_is_in_one_word() {
    let mut client = member();
    answer(&mut client, "CLIENT SETINFO LIB-NAME redis-py");
    answer(&mut client, "client setinfo lib-ver 5.0");
    assert!(client.describe().contains("lib-name=redis-py lib-ver=5.0 user=shop"));
    let long = format!("CLIENT SETNAME {}", "x".repeat(1_000));
    assert_eq!(run_as(&mut client, &long).unwrap_err(), CommandError::BadClientName);
    assert_eq!(error("CLIENT SETINFO lib-os x"), "ERR Unrecognized option 'lib-os'");
}

#[test]
fn an_invalidation_names_keys_even_those_that_look_like_its_words() {
    let mut client = member();
    answer(&mut client, "SELECT 2");
    let mut parsed = |line: &str| match run_as(&mut client, line) {
        Ok(Action::Invalidate { keyspace, keys, wait }) => {
            assert_eq!(keyspace, "shop");
            let keys: Vec<String> =
                keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
            Ok((keys.join(","), wait.map(|wait| wait.as_millis())))
        }
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    };
    assert_eq!(parsed("INVALIDATE KEY a b"), Ok(("a,b".to_owned(), None)));
    assert_eq!(parsed("invalidate key a KEY b WAIT 500"), Ok(("a,b".to_owned(), Some(500))));
    assert_eq!(parsed("INVALIDATE KEY KEY"), Ok(("KEY".to_owned(), None)));
    assert_eq!(parsed("INVALIDATE KEY WAIT 5"), Ok(("WAIT,5".to_owned(), None)));
    assert_eq!(parsed("INVALIDATE KEY TAG"), Ok(("TAG".to_owned(), None)));
    assert_eq!(parsed("INVALIDATE a b"), Err(CommandError::Syntax));
    assert_eq!(parsed("INVALIDATE KEY a KEY"), Err(CommandError::Syntax));
    assert_eq!(parsed("INVALIDATE KEY a WAIT x"), Err(CommandError::NotInteger));
    assert_eq!(parsed("INVALIDATE KEY a WAIT 60001"), Err(CommandError::WaitTooLong));
    for line in ["INVALIDATE PREFIX a", "INVALIDATE KEY a TAG t"] {
        assert!(parsed(line).unwrap_err().to_string().ends_with("is not supported by this version"));
    }
    let many = format!("INVALIDATE KEY {}", "k ".repeat(INVALIDATION_KEYS_MAX + 1));
    assert_eq!(parsed(&many), Err(CommandError::TooManyKeys { max: INVALIDATION_KEYS_MAX }));
}

#[test]
fn an_error_among_several_replies_is_the_answer() {
    let reply = |kind| Reply { kind: Some(kind) };
    let replies =
        vec![reply(reply::Kind::Integer(1)), reply(reply::Kind::Error("CLUSTERDOWN no quorum".to_owned()))];
    for shape in [Shape::Array, Shape::Sum, Shape::AllStored] {
        assert_eq!(shape.fold(replies.clone()), Frame::Error("CLUSTERDOWN no quorum".to_owned()));
    }
    assert!(matches!(Shape::One(Form::Plain).fold(vec![Reply { kind: None }]), Frame::Error(_)));
}

#[test]
fn times_are_rounded_to_seconds_as_redis_rounds_them() {
    let seconds = |ms| Form::Seconds.frame(Reply { kind: Some(reply::Kind::Integer(ms)) });
    assert_eq!(seconds(1_499), Frame::Integer(1));
    assert_eq!(seconds(1_500), Frame::Integer(2));
    assert_eq!(seconds(-2), Frame::Integer(-2));
    assert_eq!(seconds(-1), Frame::Integer(-1));
}

#[test]
fn info_shows_the_sections_asked_for() {
    let mut client = member();
    let mut info = |line: &str| {
        let Frame::Verbatim(text) = answer(&mut client, line) else { panic!("no text") };
        text
    };
    let all = info("INFO");
    assert!(all.starts_with("# Server\r\nredis_version:7.4.0\r\n"), "{all}");
    assert!(all.contains("# Holdfast\r\nnode:node-1\r\n"));
    assert_eq!(info("INFO holdfast"), "# Holdfast\r\nnode:node-1\r\n");
    assert_eq!(info("INFO nothing"), "");
}
