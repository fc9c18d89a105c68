//! The interpreter's own descriptors over a fork.
//!
//! Event loops are made of epolls, eventfds and pipes that the kernel shares between a zygote and
//! its children: a child could wake the zygote, or another child, through them. Closing them breaks
//! the loops. So each is noted before the fork, by what the kernel says of it, and replaced in the
//! child by a fresh one of its kind at the same number, with the same registrations.
//!
//! What is not of these kinds is a reason not to fork.

use core::cell::UnsafeCell;

use super::{
    super::sys::{self, Fault, Sys},
    calls, listing,
};

const MOST: usize = 48;
const MOST_WATCHES: usize = 64;
/// No pipe of a loop holds more than a token.
const MOST_TOKENS: i32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// With the inode, by which both ends are found, and how much is in it.
    Pipe {
        inode: u64,
        tokens: i32,
    },
    /// With its count.
    Event {
        count: u32,
    },
    Epoll,
    /// `/dev/null`: the spare descriptor of a loop.
    Null,
}

#[derive(Clone, Copy, Debug)]
struct Noted {
    number: i32,
    /// Of F_GETFL.
    flags: i32,
    kind: Kind,
}

/// What an epoll waits for.
#[derive(Clone, Copy, Debug)]
struct Watch {
    epoll: i32,
    target: i32,
    events: u32,
    data: u64,
}

#[derive(Debug)]
struct Survey {
    noted: [Noted; MOST],
    /// The same in the same order.
    numbers: [i32; MOST],
    len: usize,
    watches: [Watch; MOST_WATCHES],
    watches_len: usize,
}

struct Once(UnsafeCell<Survey>);

// SAFETY: written by `survey`, before the first fork, in the one thread that runs; read afterwards.
unsafe impl Sync for Once {}

static SURVEY: Once = Once(UnsafeCell::new(Survey {
    noted: [Noted { number: -1, flags: 0, kind: Kind::Null }; MOST],
    numbers: [-1; MOST],
    len: 0,
    watches: [Watch { epoll: -1, target: -1, events: 0, data: 0 }; MOST_WATCHES],
    watches_len: 0,
}));

/// Notes every descriptor above `given`, the last of those that the launcher gave.
pub(super) fn survey(given: i32) -> Sys<()> {
    // SAFETY: all other threads are stopped, and no reference from an earlier call is alive.
    let survey = unsafe { &mut *SURVEY.0.get() };
    survey.len = 0;
    survey.watches_len = 0;
    listing::descriptors(|number| {
        if number <= given {
            return Ok(());
        }
        let kind = kind_of(number)?;
        if kind == Kind::Epoll {
            note_watches(survey, number)?;
        }
        let Some(place) = survey.noted.get_mut(survey.len) else {
            return Err(Fault { call: "descriptors: too many", errno: 24 });
        };
        const F_GETFL: i32 = 3;
        *place = Noted { number, flags: calls::fcntl(number, F_GETFL, 0)?, kind };
        if let Some(place) = survey.numbers.get_mut(survey.len) {
            *place = number;
        }
        survey.len += 1;
        Ok(())
    })
}

fn kind_of(number: i32) -> Sys<Kind> {
    let (mut name, mut target) = ([0; 40], [0; 64]);
    let name = listing::numbered(&mut name, b"/proc/self/fd/", number)?;
    match calls::read_link(-100, name, &mut target)? {
        b"/dev/null" => Ok(Kind::Null),
        b"anon_inode:[eventpoll]" => Ok(Kind::Epoll),
        b"anon_inode:[eventfd]" => {
            let mut count = 0;
            information(number, |line| {
                if let Some(text) = line.strip_prefix(b"eventfd-count:") {
                    count = field(text, 16);
                }
                Ok(())
            })?;
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            Ok(Kind::Event { count })
        }
        text => {
            let tokens = calls::readable(number).unwrap_or(MOST_TOKENS + 1);
            match text.strip_prefix(b"pipe:[") {
                Some(inode) if tokens <= MOST_TOKENS => {
                    Ok(Kind::Pipe { inode: field(inode, 10), tokens })
                }
                _ => Err(Fault { call: "descriptors: one of an unknown kind", errno: number }),
            }
        }
    }
}

fn note_watches(survey: &mut Survey, epoll: i32) -> Sys<()> {
    information(epoll, |line| {
        // tfd:       11 events:       19 data:                b  pos:0 ino:57014a sdev:f
        let Some(rest) = line.strip_prefix(b"tfd:") else { return Ok(()) };
        let Some(place) = survey.watches.get_mut(survey.watches_len) else {
            return Err(Fault { call: "descriptors: too many watches", errno: 24 });
        };
        *place = Watch {
            epoll,
            target: i32::try_from(field(rest, 10)).unwrap_or(-1),
            events: u32::try_from(field(after(rest, b"events:"), 16)).unwrap_or(0),
            data: field(after(rest, b"data:"), 16),
        };
        survey.watches_len += 1;
        Ok(())
    })
}

/// Calls `visit` with each line of what the kernel tells of a descriptor.
fn information(number: i32, mut visit: impl FnMut(&[u8]) -> Sys<()>) -> Sys<()> {
    let (mut name, mut text) = ([0; 40], [0; 8192]);
    let name = listing::numbered(&mut name, b"/proc/self/fdinfo/", number)?;
    let room = text.len();
    let text = listing::contents(name, &mut text)?;
    if text.len() == room {
        // What is cut off would be missing in the child.
        return Err(Fault { call: "descriptors: one with more than there is room for", errno: 24 });
    }
    text.split(|byte| *byte == b'\n').try_for_each(&mut visit)
}

fn after<'a>(text: &'a [u8], label: &[u8]) -> &'a [u8] {
    text.windows(label.len())
        .position(|window| window == label)
        .and_then(|at| text.get(at + label.len()..))
        .unwrap_or(&[])
}

/// The number at the beginning of a text, behind spaces.
fn field(text: &[u8], base: u64) -> u64 {
    let mut number = 0_u64;
    for byte in text.iter().skip_while(|byte| byte.is_ascii_whitespace()) {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' if base == 16 => byte - b'a' + 10,
            _ => break,
        };
        number = number.wrapping_mul(base).wrapping_add(u64::from(digit));
    }
    number
}

/// In a child: puts a fresh descriptor in the place of each that was noted. Gives their numbers.
pub(super) fn replace_all() -> Sys<&'static [i32]> {
    // SAFETY: nobody writes it after the survey, which was before the fork.
    let survey = unsafe { &*SURVEY.0.get() };
    let noted = survey.noted.get(..survey.len).unwrap_or(&[]);
    for (index, one) in noted.iter().enumerate() {
        match one.kind {
            // At the first of its two ends.
            Kind::Pipe { inode, tokens } => {
                let same = |other: &&Noted| matches!(other.kind, Kind::Pipe { inode: its, .. } if its == inode);
                if noted[..index].iter().any(|other| same(&other)) {
                    continue;
                }
                let Some(other) = noted[index + 1..].iter().find(same) else {
                    return Err(Fault {
                        call: "descriptors: a pipe to elsewhere",
                        errno: one.number,
                    });
                };
                replace_pipe(one, other, tokens)?;
            }
            Kind::Event { count } => {
                put(calls::eventfd(count, fresh_flags(one.flags))?, one.number)?;
            }
            Kind::Epoll => put(calls::epoll_create(O_CLOEXEC)?, one.number)?,
            // The cell's own, so that nobody can watch the zygote's.
            Kind::Null => put(sys::open(c"/dev/null", one.flags | O_CLOEXEC)?, one.number)?,
        }
    }
    for watch in survey.watches.get(..survey.watches_len).unwrap_or(&[]) {
        calls::epoll_add(watch.epoll, watch.target, watch.events, watch.data)?;
    }
    Ok(survey.numbers.get(..survey.len).unwrap_or(&[]))
}

const O_CLOEXEC: i32 = 0o2_000_000;
const O_NONBLOCK: i32 = 0o4_000;
const O_ACCMODE: i32 = 0o3;

fn fresh_flags(flags: i32) -> i32 {
    (flags & O_NONBLOCK) | O_CLOEXEC
}

fn replace_pipe(one: &Noted, other: &Noted, tokens: i32) -> Sys<()> {
    let [read, write] = calls::pipe(O_CLOEXEC | (one.flags & other.flags & O_NONBLOCK))?;
    // The token of libuv's lock, say.
    for _ in 0..tokens {
        sys::write(write, b"*")?;
    }
    let (reader, writer) = if one.flags & O_ACCMODE == 0 { (one, other) } else { (other, one) };
    put(read, reader.number)?;
    put(write, writer.number)
}

/// Moves a descriptor to where the interpreter expects it.
fn put(fresh: i32, number: i32) -> Sys<()> {
    calls::replace(fresh, number)?;
    sys::close(fresh)
}
