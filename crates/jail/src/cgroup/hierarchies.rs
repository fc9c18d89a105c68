//! Where control groups are on this machine, and which of them is our own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{LEAF, NEEDED};

/// The controllers of v1 that are used, where they are mounted.
const V1_CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "cpuacct"];
/// Those of v2. A user's own service manager may be given no more than the first two.
const V2_CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Where this process's groups are, by hierarchy.
#[derive(Debug)]
pub(crate) struct Hierarchies {
    /// 1, 2, or 0 for none that could be used.
    pub(super) version: u32,
    /// The directory of our own group in each hierarchy, with the controllers that it has.
    pub(super) own: Vec<(PathBuf, Vec<String>)>,
    /// Where v2 is mounted, usable or not.
    pub(super) v2_mount: Option<PathBuf>,
}

impl Hierarchies {
    /// Finds them from the kernel's tables.
    pub(crate) fn find() -> io::Result<Self> {
        Self::parse(
            &fs::read_to_string("/proc/self/cgroup")?,
            &fs::read_to_string("/proc/self/mountinfo")?,
        )
    }

    fn parse(cgroups: &str, mounts: &str) -> io::Result<Self> {
        let mut groups = BTreeMap::new();
        for line in cgroups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            if let (Some(controllers), Some(path)) = (fields.next(), fields.next()) {
                for controller in controllers.split(',') {
                    groups.insert(controller.to_owned(), path.to_owned());
                }
            }
        }
        let mut v1: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
        let (mut v2, mut v2_mount) = (None, None);
        let mut found = BTreeSet::new();
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let ([_, _, _, root, point, ..], [kind, _, options, ..]) = (&left[..], &right[..])
            else {
                continue;
            };
            let own = |group: &str| Path::new(point).join(beneath(root, group));
            match *kind {
                "cgroup2" => {
                    v2 = groups.get("").map(|group| out_of_leaf(own(group)));
                    v2_mount = Some(PathBuf::from(point));
                }
                "cgroup" => {
                    for controller in
                        options.split(',').filter(|name| V1_CONTROLLERS.contains(name))
                    {
                        // One hierarchy may be mounted in two places.
                        if found.insert(controller.to_owned())
                            && let Some(group) = groups.get(controller)
                        {
                            v1.entry(own(group)).or_default().push(controller.to_owned());
                        }
                    }
                }
                _ => {}
            }
        }
        let v2 = v2.and_then(|own| {
            let have = fs::read_to_string(own.join("cgroup.controllers")).ok()?;
            v2_controllers(&have).map(|controllers| (own, controllers))
        });
        let (version, own) = match v2 {
            Some(own) => (2, vec![own]),
            None if v1.values().flatten().any(|name| name == "memory") => {
                (1, v1.into_iter().collect())
            }
            None => (0, Vec::new()),
        };
        Ok(Self { version, own, v2_mount })
    }

    /// 1, 2, or 0 for none that could be used.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// Our own group in each hierarchy, with the controllers that it has.
    pub(crate) fn own(&self) -> impl Iterator<Item = (&Path, &[String])> {
        self.own.iter().map(|(path, controllers)| (path.as_path(), controllers.as_slice()))
    }

    /// The directories that hold our own base groups, for finding what was left.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &Path> {
        self.own.iter().map(|(path, _)| path.as_path())
    }

    /// All groups of v2: each service and each scope that a manager was started in had its own.
    pub(crate) fn v2_directories(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = self.v2_mount.iter().cloned().collect();
        let mut next = 0;
        while let Some(directory) = found.get(next) {
            let below: Vec<PathBuf> = fs::read_dir(directory)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path())
                .collect();
            found.extend(below);
            next += 1;
        }
        found
    }
}

/// The controllers of v2 that are used, of those that a group has; `None` without a needed one.
pub(super) fn v2_controllers(have: &str) -> Option<Vec<String>> {
    let has = |name: &&str| have.split_whitespace().any(|have| have == *name);
    NEEDED
        .iter()
        .all(has)
        .then(|| V2_CONTROLLERS.iter().copied().filter(has).map(str::to_owned).collect())
}

/// The path of a group below the root of its mount.
fn beneath<'a>(root: &str, group: &'a str) -> &'a str {
    match group.strip_prefix(root.trim_end_matches('/')) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest.trim_start_matches('/'),
        _ => group.trim_start_matches('/'),
    }
}

/// A manager before us may have put the shell that we come from into its leaf.
fn out_of_leaf(own: PathBuf) -> PathBuf {
    match own.parent() {
        Some(parent) if own.ends_with(LEAF) => parent.to_owned(),
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_hierarchies_are_found_with_their_own_groups() {
        let found = Hierarchies::parse(
            "3:cpu,cpuacct:/a\n2:memory:/docker/x\n1:pids:/\n0::/\n",
            "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             31 25 0:27 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
             32 25 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
        )
        .unwrap();
        assert_eq!(found.version, 1);
        let paths: Vec<_> = found.directories().map(|path| path.display().to_string()).collect();
        assert_eq!(
            paths,
            ["/sys/fs/cgroup/cpu,cpuacct/a", "/sys/fs/cgroup/memory/", "/sys/fs/cgroup/pids/"]
        );
    }

    #[test]
    fn a_hierarchy_that_is_mounted_twice_is_used_once() {
        let found = Hierarchies::parse(
            "2:memory:/docker/xyz\n",
            "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             31 25 0:26 / /elsewhere rw - cgroup cgroup rw,memory\n",
        )
        .unwrap();
        let paths: Vec<_> = found.directories().collect();
        assert_eq!(paths, [Path::new("/sys/fs/cgroup/memory/docker/xyz")]);
        assert_eq!(beneath("/docker/x", "/docker/xyz"), "docker/xyz");
        assert_eq!(beneath("/docker/x", "/docker/x"), "");
        assert_eq!(out_of_leaf("/a/ampoule.manager".into()), Path::new("/a"));
    }

    #[test]
    fn v2_needs_memory_and_pids_and_takes_cpu_where_it_is() {
        let found = |have: &str| v2_controllers(have).map(|list| list.join(" "));
        assert_eq!(found("cpuset cpu io memory pids\n").as_deref(), Some("memory pids cpu"));
        assert_eq!(found("memory pids\n").as_deref(), Some("memory pids"));
        assert_eq!(found("cpu pids\n"), None);
        assert_eq!(found(""), None);
    }

    #[test]
    fn no_hierarchy_is_version_zero() {
        assert_eq!(Hierarchies::parse("0::/\n", "").unwrap().version, 0);
    }
}
