//! What a probe is given: this very executable, and something outside of its cell to get at.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{Ipv4Addr, TcpListener},
    os::{fd::IntoRawFd as _, unix::fs::MetadataExt as _},
    path::Path,
};

use super::{
    cell,
    root::{Image, clone_mount},
};
use crate::{
    error::{Jail, JailError, Step},
    probe::{EXECUTABLE, OUTSIDE, Outside},
};

/// The launcher's host name, where there are probes to read it.
const HOST_NAME: &str = "ampoule-launcher";
/// The place of the executable in the launcher's root.
const PLACE: &str = "/x";

/// Makes an image one for probes; `base` is where the launcher's root is put together.
pub(super) fn equip(base: &Path, image: &mut Image, two_ids: bool) -> Jail<()> {
    show_executable(base, &base.join(&image.skeleton[1..]), two_ids)?;
    image.files.push((PLACE.to_owned(), format!("/n{EXECUTABLE}")));
    let outside =
        serde_json::to_string(&lay_out()?).map_err(io::Error::from).step("say what is outside")?;
    image.environment.push((OUTSIDE.to_owned(), outside));
    Ok(())
}

fn show_executable(base: &Path, root: &Path, two_ids: bool) -> Jail<()> {
    let path = fs::read_link("/proc/self/exe").step("find our own executable")?;
    let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let same = inode(&path).ok() == inode(Path::new("/proc/self/exe")).ok();
    let refuse =
        |why: String| Err(JailError::new("show our own executable", io::Error::other(why)));
    if !same {
        return refuse("it was replaced since it was started; hint: start it again".to_owned());
    }
    // The program of a sandbox has an id of its own, or the user's who started us.
    let mode = fs::metadata(&path).step("look at our own executable")?.mode();
    if two_ids && mode & 0o001 == 0 {
        let shown = path.display();
        return refuse(format!("others may not execute it; hint: `chmod o+rx {shown}`"));
    }
    let place = base.join(&PLACE[1..]);
    fs::write(&place, "").step("make a place for our own executable")?;
    clone_mount(&path, &place)?;
    let inside = root.join(&EXECUTABLE[1..]);
    fs::create_dir_all(inside.parent().unwrap_or(root)).step("make a directory of a template")?;
    fs::write(inside, "").step("make a place for our own executable")?;
    // Where the launcher's root would be if a cell kept it.
    fs::create_dir_all(root.join(cell::OUTSIDE)).step("make a directory of a template")
}

/// Puts something into each of the launcher's own namespaces.
fn lay_out() -> Jail<Outside> {
    rustix::system::sethostname(HOST_NAME.as_bytes()).step("set the launcher's host name")?;
    cell::loopback_up()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).step("listen for probes")?;
    let port = listener.local_addr().step("listen for probes")?.port();
    // It listens for as long as the launcher lives; nobody accepts.
    let _ = listener.into_raw_fd();
    let mut namespaces = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/ns").step("find our namespaces")?.flatten() {
        if let (Ok(found), Ok(name)) = (fs::metadata(entry.path()), entry.file_name().into_string())
        {
            namespaces.insert(name, found.ino());
        }
    }
    let null = fs::metadata("/dev/null").ok().map(|node| (node.dev(), node.ino()));
    Ok(Outside { namespaces, port, host_name: HOST_NAME.to_owned(), null })
}
