//! The launcher's own root: a small file system that holds what cells are made of, and nothing of
//! the host.
//!
//! ```text
//! /proc        full, of the launcher's pid namespace (mounting a cell's own needs it)
//! /n           where a cell puts its new root together, in its own mount namespace
//! /empty       the second layer that a read-only overlay wants
//! /s/<k>       the host's system directories
//! /w           what of the host's `/usr` is not shown, as whiteouts
//! /t/<i>/root  the skeleton of template i: directories, links, a few files
//! /t/<i>/<k>   its trees
//! /o           what a root with a way out has more of, if there is one
//! /d/<slot>    device nodes, a directory per slot (`/d/shared` shows the host's)
//! ```

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    io::Errno,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
        mount_bind, mount_bind_recursive, mount_change, move_mount, open_tree, unmount,
    },
    process::{chdir, pivot_root},
};

use super::lures;
use crate::{
    config::{Template, ZygoteRecipe},
    error::{Jail, JailError, Step},
    handover::{DEVICE_NODES, DEVICES, MOUNT_SOURCE, finish_device_directory},
};

/// The host's directories that hold programs and libraries.
const SYSTEM: [&str; 6] =
    ["/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/share"];
/// Links of a merged `/usr`, or directories of their own on an older system.
const SYSTEM_ALIASES: [&str; 5] = ["/bin", "/lib", "/lib32", "/lib64", "/libx32"];
/// Files of the host's `/etc` without which programs start slowly or not at all.
const ETC_FILES: [&str; 2] = ["/etc/ld.so.cache", "/etc/ssl/openssl.cnf"];
/// A directory of links only, that some libraries are found through.
const ALTERNATIVES: &str = "/etc/alternatives";

/// A template, mounted.
#[derive(Debug)]
pub(super) struct Image {
    /// The directories, links and files of its own that its root is made of.
    pub(super) skeleton: String,
    /// Overlays to mount, the root first: the options and where.
    pub(super) overlays: Vec<(String, String)>,
    /// Single files to show, and where.
    pub(super) files: Vec<(String, String)>,
    /// Why no sandbox can be made of it, if so.
    pub(super) unusable: Option<String>,
    pub(super) command: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    /// Whether cells of it are kept ready.
    pub(super) spares: bool,
    /// The warm interpreters.
    pub(super) zygotes: Vec<ZygoteRecipe>,
}

/// What the root is built under.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    /// Whether each slot has host ids of its own.
    pub(super) ids: bool,
    /// Whether each slot has device nodes of its own.
    pub(super) own_devices: bool,
    /// Whether the host's are wanted all the same.
    pub(super) shared_devices: bool,
    /// Whether sandboxes may have a way out.
    pub(super) way_out: bool,
    /// Whether the container's `/proc` will do where no other can be mounted.
    pub(super) may_miss_proc: bool,
}

/// The launcher's root, entered.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) images: Vec<Image>,
    /// Whether `/proc` is of our own pid namespace, so that cells may have one of theirs.
    pub(super) proc: bool,
}

/// Builds the launcher's root and enters it. Nothing of the host is reachable afterwards, but for
/// the `/proc` of a container that lets us mount no other, if that may be.
pub(super) fn build(templates: &[Template], has: Circumstances) -> Jail<Root> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .step("make mounts private")?;
    let devices = has
        .own_devices
        .then(|| open_tree(CWD, DEVICES, OpenTreeFlags::OPEN_TREE_CLONE))
        .transpose()
        .step("take the device nodes")?;
    let base = Path::new(DEVICES);
    mount(
        MOUNT_SOURCE,
        base,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(c"mode=0755,size=64m"),
    )
    .step("mount the launcher's root")?;
    for name in ["proc", "n", "empty", "s", "t", "d"] {
        fs::create_dir(base.join(name)).step("make a directory of the launcher's root")?;
    }
    if let Some(devices) = &devices {
        move_mount(devices, "", CWD, base.join("d"), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .step("move the device nodes")?;
    }
    if devices.is_none() || has.shared_devices {
        bind_devices(&base.join("d/shared"))?;
    }
    let (system, links) = mount_system(base)?;
    let mut images = templates
        .iter()
        .enumerate()
        .map(|(index, template)| mount_template(base, index, template, &system, &links))
        .collect::<Jail<Vec<_>>>()?;
    for (image, _) in images.iter_mut().zip(templates).filter(|(_, template)| template.probes) {
        // Without probes programs run all the same, and whoever asks for one is told why.
        let equipped = lures::equip(base, image, has.ids);
        image.unusable = equipped.err().map(|error| error.to_string());
    }
    if has.way_out {
        super::network::write_layer(base)?;
    }
    let proc = match mount_proc(&base.join("proc")) {
        Err(Errno::PERM) if has.may_miss_proc => {
            mount_bind_recursive("/proc", base.join("proc")).step("show the container's /proc")?;
            false
        }
        mounted => mounted.step("mount the launcher's /proc").map(|()| true)?,
    };
    enter(base, None)?;
    Ok(Root { images, proc })
}

fn mount_proc(target: &Path) -> Result<(), Errno> {
    mount("proc", target, "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
}

/// Makes `new_root` the root of the mount namespace and lets go of the old one, or keeps it in a
/// directory of the new one.
pub(super) fn enter(new_root: &Path, keep: Option<&str>) -> Jail<()> {
    chdir(new_root).step("enter the new root")?;
    pivot_root(".", keep.unwrap_or(".")).step("pivot into the new root")?;
    if keep.is_none() {
        unmount(".", UnmountFlags::DETACH).step("let go of the old root")?;
    }
    chdir("/").step("enter the new root")
}

/// Not everybody can make device nodes: the host's are shown.
fn bind_devices(directory: &Path) -> Jail<()> {
    fs::create_dir(directory).step("make the device directory")?;
    for (name, _, _) in DEVICE_NODES {
        let target = directory.join(name);
        fs::write(&target, "").step("make a place for a device")?;
        mount_bind(Path::new("/dev").join(name), target)
            .step_with(|| format!("show /dev/{name}"))?;
    }
    finish_device_directory(directory)
}

/// Directories under `base`, the upper first, and the path that a program sees them at.
type Shown = (String, String);

/// A link of the host's: the path that a program sees it at, and its target.
type Link = (String, PathBuf);

fn mount_system(base: &Path) -> Jail<(Vec<Shown>, Vec<Link>)> {
    let (mut shown, mut links) = (Vec::new(), Vec::new());
    let as_one = hide_the_rest_of_usr(base).is_ok();
    let parts = if as_one { &["/usr"][..] } else { &SYSTEM[..] };
    for path in parts.iter().chain(&SYSTEM_ALIASES) {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_symlink() => {
                links.push(((*path).to_owned(), fs::read_link(path).step("read a system link")?));
            }
            Ok(metadata) if metadata.is_dir() => {
                let inner = format!("/s/{}", shown.len());
                clone_directory(Path::new(path), &base.join(&inner[1..]))?;
                let layers = if *path == "/usr" { format!("/w:{inner}") } else { inner };
                shown.push((layers, (*path).to_owned()));
            }
            _ => {}
        }
    }
    Ok((shown, links))
}

/// Makes a layer above `/usr` in which all but the system directories is whited out, so that one
/// overlay shows them all. Not where one of them is a link, or anything is mounted beneath.
fn hide_the_rest_of_usr(base: &Path) -> std::io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let is_beneath = |line: &str| line.split(' ').nth(4).is_some_and(|at| at.starts_with("/usr/"));
    if mounts.lines().any(is_beneath) {
        return Err(std::io::ErrorKind::Unsupported.into());
    }
    let layer = base.join("w");
    fs::create_dir(&layer)?;
    for entry in fs::read_dir("/usr")? {
        let entry = entry?;
        let is_shown = SYSTEM.iter().any(|shown| entry.path() == Path::new(shown));
        if !is_shown {
            let mode = Mode::empty();
            mknodat(CWD, layer.join(entry.file_name()), FileType::CharacterDevice, mode, 0)?;
        } else if !entry.file_type()?.is_dir() {
            return Err(std::io::ErrorKind::Unsupported.into());
        }
    }
    Ok(())
}

/// Mounts a copy of `source` at the new directory `target`.
fn clone_directory(source: &Path, target: &Path) -> Jail<()> {
    fs::create_dir(target).step("make a mount point")?;
    clone_mount(source, target)
}

/// Mounts a copy of `source` at `target`.
pub(super) fn clone_mount(source: &Path, target: &Path) -> Jail<()> {
    let open = |flags| {
        open_tree(
            CWD,
            source,
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | flags,
        )
    };
    // A tree with mounts of the host's beneath can only be copied with them.
    let tree = open(OpenTreeFlags::empty())
        .or_else(|_| open(OpenTreeFlags::AT_RECURSIVE))
        .step_with(|| format!("open {}", source.display()))?;
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .step_with(|| format!("show {}", source.display()))
}

fn mount_template(
    base: &Path,
    index: usize,
    template: &Template,
    system: &[Shown],
    links: &[Link],
) -> Jail<Image> {
    let home = base.join(format!("t/{index}"));
    let root = home.join("root");
    let inside = |path: &str| -> Jail<PathBuf> {
        match path.strip_prefix('/') {
            Some(relative)
                if !relative.is_empty() && !relative.split('/').any(|part| part == "..") =>
            {
                Ok(root.join(relative))
            }
            _ => Err(JailError::new(
                format!("use `{path}` inside a sandbox"),
                std::io::ErrorKind::InvalidInput,
            )),
        }
    };
    let make = |path: &Path| fs::create_dir_all(path).step("make a directory of a template");
    for name in ["dev", "proc", "tmp", "workspace", "etc"] {
        make(&root.join(name))?;
    }
    for (path, target) in links {
        symlink(target, inside(path)?).step("make a system link")?;
    }
    for (path, target) in &template.links {
        symlink(target, inside(path)?).step_with(|| format!("make the link {path}"))?;
    }
    let mut shown = system.to_vec();
    for (place, tree) in template.trees.iter().enumerate() {
        clone_directory(&tree.source, &home.join(place.to_string()))?;
        shown.push((format!("/t/{index}/{place}"), tree.target.clone()));
    }
    let skeleton = format!("/t/{index}/root");
    let mut overlays = vec![(format!("lowerdir={skeleton}:/empty"), "/n".to_owned())];
    for (inner, target) in shown {
        make(&inside(&target)?)?;
        overlays.push((format!("lowerdir={inner}:/empty"), format!("/n{target}")));
    }
    copy_etc(&root)?;
    for file in &template.files {
        let path = inside(&file.path)?;
        make(path.parent().unwrap_or(&root))?;
        fs::write(path, &file.content).step_with(|| format!("write {}", file.path))?;
    }
    Ok(Image {
        skeleton,
        overlays,
        files: Vec::new(),
        unusable: None,
        command: template.command.clone(),
        environment: template.environment.clone(),
        spares: !template.probes,
        zygotes: template
            .zygotes
            .iter()
            .map(|zygote| {
                let fill = |text: &String| text.replace("{library}", super::zygote::LIBRARY);
                ZygoteRecipe {
                    command: zygote.command.iter().map(fill).collect(),
                    ..zygote.clone()
                }
            })
            .collect(),
    })
}

fn copy_etc(root: &Path) -> Jail<()> {
    for path in ETC_FILES {
        if let Ok(content) = fs::read(path) {
            let target = root.join(&path[1..]);
            fs::create_dir_all(target.parent().unwrap_or(root)).step("make a directory of /etc")?;
            fs::write(target, content).step_with(|| format!("copy {path}"))?;
        }
    }
    let alternatives = root.join(&ALTERNATIVES[1..]);
    fs::create_dir_all(&alternatives).step("make a directory of /etc")?;
    for entry in fs::read_dir(ALTERNATIVES).into_iter().flatten().flatten() {
        if let Ok(target) = fs::read_link(entry.path()) {
            symlink(target, alternatives.join(entry.file_name())).step("copy a link of /etc")?;
        }
    }
    Ok(())
}
