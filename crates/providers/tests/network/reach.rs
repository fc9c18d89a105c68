//! What a program with a way out reaches.

use std::sync::Arc;

use ampoule_core::{NetworkPolicy, Outcome};
use ampoule_testkit::Suite;

use crate::{
    Test,
    rig::{Rig, value},
    world::{self, PUBLIC},
};

pub(crate) fn add_controls(suite: &mut Suite, rig: &Arc<Rig>) {
    let rig = Arc::clone(rig);
    suite.control("a_name_is_found_and_the_world_answers", move || {
        let code = "import socket\ndef main():\n  c = socket.create_connection(('world.test', 7007), 10)\n  c.sendall(b'hello')\n  return c.recv(9).decode()";
        assert_eq!(value(rig.open("python", code)?)?, "\"hello\"");
        // The oracle hears, so its silence means something.
        assert!(!rig.visits(PUBLIC)?.is_empty());
        Ok(())
    });
}

pub(crate) fn add(add: &mut impl FnMut(&str, &str, Test)) {
    add("reach", "datagrams_go_and_come_back", |rig| {
        let code = "import socket\ndef main():\n  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n  s.settimeout(10)\n  s.sendto(b'x' * 1400, ('world.test', 7007))\n  return len(s.recv(2000))";
        assert_eq!(value(rig.open("python", code)?)?, "1400");
        Ok(())
    });
    add("reach", "requests_fetches_by_name", |rig| {
        let code = "import requests\ndef main():\n  return requests.get('http://world.test:8080/a', timeout=10).json()";
        let got = value(rig.open("python", code)?)?;
        assert_eq!(got, r#"{"name":"world.test:8080","path":"/a"}"#);
        Ok(())
    });
    add("reach", "axios_fetches_by_name", |rig| {
        let code = "const axios = require('axios');\nasync function main() { return (await axios.get('http://world.test:8080/b', {timeout: 10000})).data }";
        let got = value(rig.open("javascript", code)?)?;
        assert_eq!(got, r#"{"name":"world.test:8080","path":"/b"}"#);
        Ok(())
    });
    add("reach", "four_megabytes_arrive_whole", |rig| {
        let code = "import hashlib, requests\ndef main():\n  body = requests.get('http://world.test:8080/large', timeout=15).content\n  return [len(body), hashlib.sha256(body).hexdigest() == hashlib.sha256(bytes(range(256)) * 16384).hexdigest()]";
        assert_eq!(value(rig.open("python", code)?)?, "[4194304,true]");
        Ok(())
    });
    add("reach", "an_unknown_name_is_the_programs_own_failure", |rig| {
        let code = "import socket\ndef main(): socket.getaddrinfo('nobody.test', 80)";
        let result = rig.open("python", code)?;
        let Outcome::Failed { error: Some(error), .. } = &result.finished.outcome else {
            return Err(format!("{result:?}").into());
        };
        assert_eq!(error.kind, "gaierror");
        Ok(())
    });
    add("reach", "what_is_listed_is_open_and_nothing_beside_it", |rig| {
        let code = "import errno, socket\ndef main():\n  out = []\n  for address in ('10.77.0.10', '203.0.113.1', '203.0.113.10', '10.77.0.1', '10.77.0.11', '192.168.77.10', '169.254.169.254'):\n    try:\n      c = socket.create_connection((address, 7007), 10)\n      c.sendall(b'x'); out.append(c.recv(1).decode())\n    except OSError as error: out.append(errno.errorcode.get(error.errno, 'timeout'))\n  return out";
        let result = rig.run_on(&rig.listing, "python", code, NetworkPolicy::Open)?;
        let unreachable = r#""ENETUNREACH""#;
        assert_eq!(
            value(result)?,
            format!(r#"["x","x","x"{}]"#, format!(",{unreachable}").repeat(4))
        );
        assert!(!rig.visits(world::HOST[0])?.is_empty(), "the oracle hears the host's servers");
        Ok(())
    });
    add("reach", "a_listed_port_is_open_and_no_other_port_of_its_range", |rig| {
        let code = "import errno, socket\ndef main():\n  out = []\n  for address in ('172.20.77.10', '172.20.0.1', '172.21.77.10'):\n    for port in (7007, 8080):\n      for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n        s = socket.socket(socket.AF_INET, kind)\n        s.settimeout(10)\n        try:\n          s.connect((address, port))\n          if port == 7007: s.send(b'x'); out.append(s.recv(1).decode())\n          else: out.append('connected')\n        except OSError as error: out.append(errno.errorcode.get(error.errno, 'timeout'))\n  return out";
        let result = rig.run_on(&rig.listing, "python", code, NetworkPolicy::Open)?;
        let closed = r#","ENETUNREACH""#.repeat(10);
        assert_eq!(value(result)?, format!(r#"["x","x"{closed}]"#));
        assert_eq!(rig.visits(world::HOST[2])?, Vec::<String>::new());
        Ok(())
    });
    add("reach", "the_result_names_the_policy", |rig| {
        for network in [NetworkPolicy::None, NetworkPolicy::Open] {
            let code = "import os, socket\ndef main(): return [os.path.exists('/etc/resolv.conf'), os.path.exists('/etc/ssl/certs/ca-certificates.crt'), sorted(n for _, n in socket.if_nameindex())]";
            let request = crate::rig::request("python", code, network);
            let (report, result) = rig.runtime.block_on(async {
                use ampoule_core::{CancellationToken, Collector, Provider as _};
                let mut sandbox = rig.strict.create(request.spec()).await?;
                let report = sandbox.isolation().network;
                let events = sandbox.execute(request, CancellationToken::new()).await?;
                let result = Collector::collect(events).await?;
                sandbox.destroy().await?;
                Ok::<_, ampoule_core::Error>((report, result))
            })?;
            assert_eq!(report, network);
            let certificates = std::path::Path::new("/etc/ssl/certs/ca-certificates.crt").exists();
            let expected = match network {
                NetworkPolicy::None => r#"[false,false,["lo"]]"#.to_owned(),
                NetworkPolicy::Open => format!(r#"[true,{certificates},["lo","tap0"]]"#),
            };
            assert_eq!(value(result)?, expected);
        }
        Ok(())
    });
}
