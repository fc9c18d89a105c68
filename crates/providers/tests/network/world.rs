//! A world of the test's own: a network namespace with servers on addresses of every kind, and
//! another that plays the host, with a stand-in for the manager. Nothing of it outlives the test.
//!
//! ```text
//!   host namespace (this process, the provider)        world namespace
//!   203.0.113.1, 10.77.0.1, 172.20.0.1 ---- veth ----  203.0.113.10 (public), 10.77.0.10,
//!   127.0.0.1, 127.0.0.53 (looks names up)             192.168.77.10, 169.254.169.254, …
//! ```

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use ampoule_providers::runtimes::default_data_dir;
use ampoule_testkit::{Failure, eventually};

pub(crate) const PUBLIC: &str = "203.0.113.10";
/// Where the host looks names up: as with most distributions a service on its own loopback.
pub(crate) const RESOLVER: &str = "127.0.0.53";
pub(crate) const PRIVATE: &str = "10.77.0.10";
/// Addresses of the world that are closed.
pub(crate) const CLOSED: [&str; 7] = [
    PRIVATE,
    "172.16.77.10",
    "192.168.77.10",
    "100.64.77.10",
    "169.254.169.254",
    "168.63.129.16",
    "198.18.0.50",
];
/// A port that is listed for one provider, of a range in which the host has an address.
pub(crate) const LISTED_PORT: &str = "172.20.0.0/16:7007";
const LISTED: &str = "172.20.77.10";
/// Addresses of the host.
pub(crate) const HOST: [&str; 3] = ["203.0.113.1", "10.77.0.1", "172.20.0.1"];

const SERVERS: &str = include_str!("world.py");
/// Where each of the two writes down who came.
const LOGS: [&str; 2] = ["world.log", "host.log"];

/// The servers. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct World {
    servers: Vec<Child>,
    /// Where the installed packages are to be seen by everybody.
    pub(crate) data_dir: PathBuf,
}

impl World {
    /// Builds the world around the network and mount namespace that we are in, which are ours.
    pub(crate) fn build(directory: &Path) -> Result<Self, Failure> {
        let data_dir = directory.join("data");
        let mut world = Self { servers: Vec::new(), data_dir };
        let mut addresses = vec![PUBLIC];
        addresses.extend(CLOSED);
        addresses.push(LISTED);
        let inner = world.serve(directory, LOGS[0], "-", &addresses, true)?;
        run(&format!("ip link add host0 type veth peer name world0 netns {inner}"))?;
        run("ip link set lo up")?;
        run("ip link set host0 up")?;
        for address in HOST {
            run(&format!("ip address add {address}/24 dev host0"))?;
        }
        // Whatever is no address of ours is the world's.
        run(&format!("ip route add default via {PUBLIC}"))?;
        fs::write(directory.join("linked"), "")?;
        let own = [&["127.0.0.1", RESOLVER], &HOST[..]].concat();
        world.serve(directory, LOGS[1], RESOLVER, &own, false)?;
        for log in LOGS {
            let log = directory.join(log);
            eventually("the servers are there", || {
                fs::read_to_string(&log).is_ok_and(|text| text.starts_with("ready"))
            })?;
        }
        // Where this host looks names up, and a tun device that everybody may open, as usual.
        let resolv = directory.join("resolv.conf");
        fs::write(&resolv, format!("nameserver {RESOLVER}\n"))?;
        run(&format!("mount --bind {} /etc/resolv.conf", resolv.display()))?;
        run("mount -t tmpfs -o mode=0755 tmpfs /dev/net")?;
        run("mknod -m 0666 /dev/net/tun c 10 200")?;
        fs::create_dir(&world.data_dir)?;
        let data_dir = default_data_dir();
        run(&format!("mount --bind {} {}", data_dir.display(), world.data_dir.display()))?;
        Ok(world)
    }

    /// Starts servers, in a network namespace of their own or in ours; gives their pid.
    fn serve(
        &mut self,
        directory: &Path,
        log: &str,
        resolver: &str,
        addresses: &[&str],
        apart: bool,
    ) -> Result<u32, Failure> {
        let program = directory.join("world.py");
        fs::write(&program, SERVERS)?;
        // Its addresses first; for that its end of the cable has to be there.
        let prepare = format!(
            "ip link set lo up; until [ -e {}/linked ]; do sleep 0.01; done; \
             ip link set world0 up; for a in {}; do ip address add $a/24 dev world0; done; ",
            directory.display(),
            addresses.join(" "),
        );
        let serve = format!(
            "exec python3 -I {} {log} {resolver} {}",
            program.display(),
            addresses.join(" ")
        );
        let script = format!("{}{serve}", if apart { &prepare } else { "" });
        let mut command = if apart {
            let mut command = Command::new("unshare");
            command.args(["--net", "--", "sh", "-c", &script]);
            command
        } else {
            let mut command = Command::new("sh");
            command.args(["-c", &script]);
            command
        };
        // They end with the pipe of their standard input.
        let child =
            command.stdin(Stdio::piped()).stdout(File::create(directory.join(log))?).spawn()?;
        let pid = child.id();
        self.servers.push(child);
        if apart {
            let own = fs::read_link("/proc/self/ns/net")?;
            eventually("the world has a namespace", || {
                fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|there| there != own)
            })?;
        }
        Ok(pid)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Who has come to the servers at `address`, in lines; `group` for what came to no single one.
pub(crate) fn visits(directory: &Path, address: &str) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for log in LOGS {
        let text = fs::read_to_string(directory.join(log))?;
        let lines = text.lines().filter(|line| line.split(' ').nth(1) == Some(address));
        found.extend(lines.map(str::to_owned));
    }
    Ok(found)
}

fn run(line: &str) -> Result<(), Failure> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap_or_default()).args(words).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failure::from(format!("`{line}`: {said}")));
    }
    Ok(())
}
