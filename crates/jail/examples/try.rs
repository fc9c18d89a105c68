//! scratch
use ampoule_jail::*;
use std::{time::{Duration,Instant}, fs::File, io::{Read,Write}, os::fd::OwnedFd};
fn wait<T>(mut f: impl FnMut()->std::io::Result<Option<T>>)->Option<T>{ loop { match f(){ Ok(x)=>return x, Err(e) if e.kind()==std::io::ErrorKind::WouldBlock => std::thread::sleep(Duration::from_micros(50)), Err(e)=>panic!("{e}") } } }
fn main(){
  entry();
  let code=std::env::args().nth(1).unwrap_or("print(1)".into());
  let cfg=LauncherConfig{templates:vec![Template{name:"python".into(),trees:vec![],files:vec![SkeletonFile{path:"/etc/passwd".into(),content:"nobody:x:65534:65534:nobody:/workspace:/bin/sh\n".into()}],command:["/usr/bin/python3","-I","-S","-B","-c",&code].map(String::from).to_vec(),environment:vec![("PATH".into(),"/usr/bin".into())]}],slots:8,id_base:1_900_000_000,policy:std::fs::read_to_string("policies/seccomp.json").unwrap()};
  let k=Keeper::spawn(&cfg).unwrap();
  let c=wait(||k.next_launcher()).unwrap();
  println!("{:?}",wait(||c.receive()).unwrap().0);
  for n in 0..3 {
  let t=Instant::now();
  c.send(&Command::Prepare{ticket:1,template:0,limits:CellLimits{memory:256<<20,disk:100<<20,processes:64,millicpus:1000}}).unwrap();
  let (r,fds)=wait(||c.receive()).unwrap();
  println!("{n} {:?} {} fds {:?}",r,fds.len(),t.elapsed());
  let Report::Prepared{slot,..}=r else {return};
  let mut it=fds.into_iter(); let mut next=||->OwnedFd{it.next().unwrap()};
  let mut req=File::from(next()); let mut out=File::from(next()); let mut err=File::from(next()); let _res=File::from(next()); let l=Listener::new(next()).unwrap();
  c.send(&Command::Lease{slot,wall:Duration::from_secs(5),cpu:None}).unwrap();
  req.write_all(b"x").ok(); drop(req);
  let h=std::thread::spawn(move||{ loop{ match l.refuse_next(){Ok(Some(n))=>println!("denied {n}"),Ok(None)=>std::thread::sleep(Duration::from_micros(200)),Err(e)=>{println!("listener {e}");return}} } });
  let (r,_)=wait(||c.receive()).unwrap(); println!("{:?} {:?}",r,t.elapsed());
  let mut s=String::new(); out.read_to_string(&mut s).unwrap(); println!("out: {s}"); s.clear(); err.read_to_string(&mut s).unwrap(); println!("err: {s}");
  c.send(&Command::Collect{slot}).unwrap();
  loop { let (r,_)=wait(||c.receive()).unwrap(); println!("{r:?}"); if matches!(r,Report::Collected{..}){break} }
  c.send(&Command::Release{slot}).unwrap();
  println!("{:?} {:?}",wait(||c.receive()).unwrap().0,t.elapsed());
  drop(h);
  }
  drop(c);
  println!("{:?}", k.shutdown(Duration::from_secs(5)));
  println!("{:?}", leaks());
}
