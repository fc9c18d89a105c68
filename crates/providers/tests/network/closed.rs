//! What stays closed, by trying every way there is to it; the servers there are the oracle.

use ampoule_core::{Denial, NetworkPolicy, Outcome};
use ampoule_testkit::Failure;

use crate::{
    Test,
    rig::{Rig, value},
    world::{CLOSED, HOST, RESOLVER},
};

/// Everything that must not be reached, as a Python tuple.
fn closed() -> String {
    let all = CLOSED.iter().chain(&HOST).chain(&["198.18.0.2", "255.255.255.255", "224.0.0.251"]);
    format!("({})", all.map(|address| format!("'{address}',")).collect::<String>())
}

/// Nobody came to anything that is closed. The private address and one of the host's are listed for
/// another provider, whose own test tells apart what it does.
fn nobody_came(rig: &Rig, port: &str) -> Result<(), Failure> {
    for address in CLOSED.into_iter().chain(HOST).chain(["127.0.0.1", "group"]) {
        let came = rig.visits(address)?;
        let came: Vec<_> = came.iter().filter(|line| line.ends_with(port)).collect();
        assert!(came.is_empty(), "{came:?}");
    }
    Ok(())
}

pub(crate) fn add(add: &mut impl FnMut(&str, &str, Test)) {
    add("closed", "the_kernel_finds_no_route_and_counts", |rig| {
        let code = format!(
            "import errno, socket\ndef main():\n  out = set()\n  for address in {}:\n    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n      s = socket.socket(socket.AF_INET, kind)\n      s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\n      s.settimeout(2)\n      try:\n        s.connect((address, 8080)); s.send(b'x'); out.add(address)\n      except OSError as error: out.add(errno.errorcode.get(error.errno, 'timeout'))\n  return sorted(out)",
            closed()
        );
        let result = rig.open("python", &code)?;
        let counted = result.finished.evidence.network.unroutable;
        assert_eq!(value(result)?, r#"["ENETUNREACH"]"#);
        assert!(counted >= 20, "{counted}");
        nobody_came(rig, " 8080")
    });
    add("closed", "the_gateway_is_no_way_to_the_hosts_loopback", |rig| {
        let code = "import socket\ndef main():\n  out = []\n  for address in ('198.18.0.2', '198.18.0.3', '127.0.0.1'):\n    for device in (None, b'tap0\\0'):\n      s = socket.socket()\n      s.settimeout(2)\n      if device: s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)\n      try: s.connect((address, 8080)); out.append(address)\n      except OSError: pass\n  return out";
        assert_eq!(value(rig.open("python", code)?)?, "[]");
        nobody_came(rig, " 8080")
    });
    add("closed", "a_socket_of_the_device_leads_nowhere", |rig| {
        let beyond = closed().replace("'198.18.0.2',", "");
        let code = format!(
            "import socket, struct, time\ndef frames():\n  line = [l for l in open('/proc/self/net/dev') if 'tap0' in l][0].split(':')[1].split()\n  return int(line[9]), int(line[11])\ndef main():\n  index = socket.if_nametoindex('tap0')\n  time.sleep(0.5)\n  before = frames()\n  tried = 0\n  for address in {}:\n    for port in (7007, 5353):\n      for way in ('device', 'index', 'unicast_if', 'pktinfo', 'group_if', 'source'):\n        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\n        more = []\n        try:\n          if way == 'device': s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'tap0\\0')\n          if way == 'index': s.setsockopt(socket.SOL_SOCKET, 62, index)\n          if way == 'unicast_if': s.setsockopt(socket.IPPROTO_IP, 50, struct.pack('>I', index))\n          if way == 'pktinfo': more = [(socket.IPPROTO_IP, 8, struct.pack('I8x', index))]\n          if way == 'group_if': s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton('198.18.0.100'))\n          if way == 'source': s.bind(('198.18.0.100', 0))\n          s.sendmsg([b'x'], more, 0, (address, port))\n          tried += 1\n        except OSError: pass\n  for address in {}:\n    s = socket.socket()\n    s.settimeout(0.3)\n    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'tap0\\0')\n    try: s.connect((address, 7007)); raise SystemExit(address)\n    except OSError: tried += 1\n  time.sleep(1)\n  sent, dropped = (b - a for a, b in zip(before, frames()))\n  return [tried, dropped, sent]",
            beyond, beyond,
        );
        // Most of them the kernel sends without asking a route: the filter of frames is what holds.
        // (The gateway's own address passes it, and the helper refuses that; it is left out here.)
        let counted: Vec<u32> = serde_json::from_str(&value(rig.open("python", &code)?)?)?;
        let [tried, dropped, sent] = counted[..] else { return Err("not three numbers".into()) };
        assert!(tried > 40 && dropped > 20 && sent < 4, "{counted:?}");
        nobody_came(rig, " 5353")?;
        for address in CLOSED.into_iter().skip(1).chain([HOST[1]]) {
            assert_eq!(rig.visits(address)?, Vec::<String>::new());
        }
        Ok(())
    });
    add("closed", "a_source_route_leads_nowhere", |rig| {
        // Loose source route: by the open address to the closed one.
        let code = "import socket\ndef main():\n  out = []\n  for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):\n    for via in ('203.0.113.10', '198.18.0.2'):\n      s = socket.socket(socket.AF_INET, kind)\n      s.settimeout(2)\n      try:\n        s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([131, 11, 4]) + socket.inet_aton(via) + socket.inet_aton('192.168.77.10') + b'\\0')\n        s.connect(('192.168.77.10', 7007)); s.send(b'x'); out.append(s.recv(1).decode())\n      except OSError: pass\n  return len(out) < 4";
        value(rig.open("python", code)?)?;
        assert_eq!(rig.visits("192.168.77.10")?, Vec::<String>::new());
        Ok(())
    });
    add("closed", "the_resolver_forwards_lookups_and_nothing_else", |rig| {
        let code = "import socket\ndef main():\n  out = []\n  for port in (54, 7007, 8080):\n    s = socket.socket()\n    s.settimeout(2)\n    try: s.connect(('198.18.0.3', port)); out.append(port)\n    except OSError: pass\n  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n  s.sendto(b'x', ('198.18.0.3', 7007))\n  return out";
        value(rig.open("python", code)?)?;
        assert_eq!(rig.visits(RESOLVER)?, Vec::<String>::new());
        Ok(())
    });
    add("closed", "a_name_for_a_closed_address_opens_nothing", |rig| {
        let code =
            "import requests\ndef main(): requests.get('http://metadata.test:8080/', timeout=5)";
        let result = rig.open("python", code)?;
        let Outcome::Denied { what } = &result.finished.outcome else {
            return Err(format!("{result:?}").into());
        };
        assert!(matches!(what[..], [Denial::Network { packets: 1.. }]), "{what:?}");
        nobody_came(rig, " 8080")
    });
    add("closed", "ipv6_has_no_way_out", |rig| {
        let code = "import errno, socket\ndef main():\n  out = []\n  for address in ('2001:db8::1', 'fe80::1', 'ff02::fb', '::ffff:10.77.0.10'):\n    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'tap0\\0')\n    try: s.sendto(b'x', (address, 5353)); out.append('sent')\n    except OSError as error: out.append(errno.errorcode[error.errno])\n  return [out, open('/proc/self/net/if_inet6').read().count('tap0')]";
        let got = value(rig.open("python", code)?)?;
        assert!(got.ends_with(",0]"), "the device has an address: {got}");
        nobody_came(rig, " 5353")
    });
    add("closed", "without_a_way_out_every_attempt_is_counted", |rig| {
        let code = "import socket\ndef main(): socket.create_connection(('203.0.113.10', 8080), 2)";
        let result = rig.run_on(&rig.strict, "python", code, NetworkPolicy::None)?;
        let Outcome::Denied { what } = &result.finished.outcome else {
            return Err(format!("{result:?}").into());
        };
        assert!(matches!(what[..], [Denial::Network { packets: 1.. }]), "{what:?}");
        Ok(())
    });
    add("closed", "routes_and_devices_cannot_be_changed", |rig| {
        let code = "import fcntl, socket, struct\ndef main():\n  out = []\n  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n  for request in (0x890b, 0x890c, 0x8914, 0x8916, 0x8924, 0x8955):\n    try: fcntl.ioctl(s, request, bytes(120)); out.append(request)\n    except OSError: pass\n  n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\n  n.send(struct.pack('IHHII', 28, 25, 5, 1, 0) + struct.pack('8BI', 2, 8, 0, 0, 254, 4, 0, 9, 0))\n  out.append(struct.unpack_from('i', n.recv(4096), 16)[0])\n  return out";
        assert_eq!(value(rig.open("python", code)?)?, "[-1]");
        Ok(())
    });
}
