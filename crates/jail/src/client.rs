//! The manager's side: starts the keeper, speaks with launchers, answers system call notifications.
//!
//! Nothing here waits longer than the manager asks for; sockets that are handed out are
//! non-blocking, for the manager to wait on in its own way.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::process::CommandExt as _,
    process::{Child, Command as Process, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
};

use crate::{
    config::{LauncherConfig, host_ids},
    error::{Jail, JailError, Step},
    handover::memory_file,
    keeper,
    protocol::{Command, MESSAGE_LEN, Report},
    rights::Rights,
    seccomp, sys, wire,
};

/// A running keeper.
#[derive(Debug)]
pub struct Keeper {
    child: Child,
    control: OwnedFd,
}

impl Keeper {
    /// Starts a keeper, which starts a launcher. To be called before this process has threads, and
    /// before it gives up the rights that it was started with.
    pub fn spawn(config: &LauncherConfig) -> Jail<Self> {
        keeper::raise_descriptor_limit();
        let (ours, theirs) = wire::pair().step("make the keeper's socket")?;
        let child = Process::new("/proc/self/exe")
            .arg0("ampoule")
            .arg(keeper::ARGUMENT)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .step("start the keeper")?;
        let file = memory_file(config)?;
        wire::send(ours.as_fd(), b"C", &[file.as_fd()]).step("configure the keeper")?;
        set_non_blocking(&ours)?;
        Ok(Self { child, control: ours })
    }

    /// The descriptor that becomes readable when [`Keeper::next_launcher`] has something.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// The connection to the next launcher; `Ok(None)` when the keeper is gone. `WouldBlock` when
    /// there is none yet.
    pub fn next_launcher(&self) -> io::Result<Option<Connection>> {
        let mut said = [0; 512];
        let Some((length, mut descriptors)) = wire::receive_now(&self.control, &mut said)? else {
            return Ok(None);
        };
        let Some(socket) = descriptors.pop() else {
            // Its own failure, in words.
            let text = said[..length].get(1..).unwrap_or_default();
            return Err(io::Error::other(String::from_utf8_lossy(text).into_owned()));
        };
        set_non_blocking(&socket).map_err(io::Error::other)?;
        Ok(Some(Connection { socket }))
    }

    /// Lets go of the keeper and waits until it has left nothing behind.
    pub fn shutdown(self, patience: Duration) -> io::Result<()> {
        let Self { mut child, control } = self;
        drop(control);
        let deadline = Instant::now() + patience;
        while child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

fn set_non_blocking(socket: &OwnedFd) -> Jail<()> {
    fcntl_getfl(socket)
        .and_then(|flags| fcntl_setfl(socket, flags | OFlags::NONBLOCK))
        .step("make a socket non-blocking")
}

/// The connection to one launcher.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::os::fd::AsRawFd for Connection {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.socket)
    }
}

impl Connection {
    /// Sends a command.
    pub fn send(&self, command: &Command) -> io::Result<()> {
        Ok(wire::send(self.socket.as_fd(), &command.encode(), &[])?)
    }

    /// Tells the launcher to end, however many still hold this connection.
    pub fn close(&self) {
        // Closed already is as good.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    /// The next report with its descriptors; `Ok(None)` when the launcher is gone. `WouldBlock`
    /// when there is none yet.
    pub fn receive(&self) -> io::Result<Option<(Report, Vec<OwnedFd>)>> {
        let mut buffer = [0; MESSAGE_LEN];
        match wire::receive_now(&self.socket, &mut buffer)? {
            Some((length, descriptors)) => {
                let report = Report::decode(&buffer[..length]).map_err(io::Error::other)?;
                Ok(Some((report, descriptors)))
            }
            None => Ok(None),
        }
    }
}

/// Gives up every right that this process was started with: it takes the manager's own id, if it may,
/// and holds no Linux capability afterwards. To be called after [`Keeper::spawn`], before threads.
pub fn give_up_rights(id: u32) -> Jail<()> {
    let takes_id = Rights::of_self(&host_ids(id))?.ids;
    if takes_id {
        sys::clear_groups()?;
        sys::set_gid(id)?;
        sys::set_uid(id)?;
    }
    sys::drop_linux_caps()?;
    // Nor do they come back through a program that it executes.
    rustix::thread::set_no_new_privs(true).step("set no_new_privs")?;
    if (takes_id && sys::uids()? != [id; 3]) || !sys::has_no_linux_caps()? {
        return Err(JailError::new("give up our rights", io::ErrorKind::PermissionDenied));
    }
    Ok(())
}

/// The kernel's notifications of system calls that the policy denies.
#[derive(Debug)]
pub struct Listener {
    descriptor: OwnedFd,
}

/// `struct seccomp_notif`.
#[derive(Default)]
#[repr(C)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    arch: u32,
    instruction_pointer: u64,
    arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

const SECCOMP_IOCTL_NOTIF_RECV: u32 = 0xc050_2100;
const SECCOMP_IOCTL_NOTIF_SEND: u32 = 0xc018_2101;
const EPERM: i32 = 1;

impl Listener {
    /// Takes the descriptor that came with [`Report::Prepared`], and makes it non-blocking.
    pub fn new(descriptor: OwnedFd) -> Jail<Self> {
        set_non_blocking(&descriptor)?;
        Ok(Self { descriptor })
    }

    /// Refuses one denied call with EPERM and names it; `None` when none waits, an error when no
    /// process is left.
    ///
    /// A denied call is recorded and refused, never looked into: its arguments may be pointers
    /// into memory that changes under our eyes.
    pub fn refuse_next(&self) -> io::Result<Option<String>> {
        use std::os::fd::AsRawFd as _;
        let fd = self.descriptor.as_raw_fd();
        let notification = loop {
            match readiness(&self.descriptor)? {
                ready if ready.contains(PollFlags::IN) => {}
                // No process is left that could be refused anything.
                ready if ready.contains(PollFlags::HUP) => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                _ => return Ok(None),
            }
            let mut notification = Notification::default();
            // SAFETY: the kernel fills one `struct seccomp_notif` of 80 bytes, which it wants
            // zeroed.
            let received =
                unsafe { sys::ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, (&raw mut notification).cast()) };
            // Else the caller was killed while it waited; another may wait behind it.
            if received.is_ok() {
                break notification;
            }
        };
        let mut response = Response { id: notification.id, value: 0, error: -EPERM, flags: 0 };
        // SAFETY: the kernel reads one `struct seccomp_notif_resp` of 24 bytes. A caller that is
        // gone by now is no concern of ours.
        let _ = unsafe { sys::ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, (&raw mut response).cast()) };
        let number = notification.number.cast_unsigned();
        let name = seccomp::Policy::name_of(seccomp::Arch::NATIVE, number)
            .map_or_else(|| format!("syscall_{number}"), str::to_owned);
        Ok(Some(name))
    }
}

/// Receiving from a listener waits even when it is non-blocking, so look first.
fn readiness(descriptor: &OwnedFd) -> Result<PollFlags, Errno> {
    let mut polled = [PollFd::new(descriptor, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(polled[0].revents())
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl std::os::fd::AsRawFd for Listener {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.descriptor)
    }
}
