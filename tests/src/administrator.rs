//! The lab's administrator: a key that every gateway was told of, and what is made with it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::gateway::Gateway;
use crate::lab::Lab;

/// The administrator of a lab.
pub struct Administrator<'a> {
    lab: &'a Lab,
    dir: PathBuf,
}

impl Lab {
    /// Makes an administrator's key and has every gateway's configuration name it. The lab has identities, and no daemon
    /// that runs.
    pub fn administrator(&self) -> Result<Administrator<'_>> {
        let dir = self.state().directory.join("kmg");
        let administrator = Administrator { lab: self, dir };
        let made = administrator.hand().gemctl(&["kmg", "init", "--out", text(&administrator.dir)])?;
        let mut members = String::new();
        for gateway in self.gateways() {
            let file = gateway.config_file();
            let config = fs::read_to_string(&file).map_err(Error::file(&file))?;
            let told = config.replacen("[domain]", &format!("[domain]\nkmg = {}", made["public_key"]), 1);
            fs::write(&file, told).map_err(Error::file(&file))?;
            let identity = gateway.directory().join("etc/node.key");
            let line = gateway.gemctl_output(&["key", "export", text(&identity), "--name", gateway.host().name()])?;
            members.push_str(&String::from_utf8_lossy(&line.stdout));
        }
        let file = administrator.dir.join("members");
        fs::write(&file, members).map_err(Error::file(&file))?;
        Ok(administrator)
    }
}

impl<'a> Administrator<'a> {
    /// Any gateway: what is made is made from files only.
    fn hand(&self) -> Gateway<'a> {
        self.lab.gateways()[0]
    }

    /// Makes a package with a new key for a group. `more` says when, and for whom if it is not for all.
    pub fn package(&self, group: &str, epoch: u64, more: &[&str]) -> Result<PathBuf> {
        let [key, members, out] = ["kmg.key", "members", &format!("{epoch}.gem")].map(|name| self.dir.join(name));
        let epoch = epoch.to_string();
        let fixed = ["kmg", "package", "--group", group, "--epoch", &epoch, "--key", text(&key)];
        self.hand().gemctl(&[&fixed[..], &["--members", text(&members), "--out", text(&out)], more].concat())?;
        Ok(out)
    }

    /// Makes the revocation of a gateway.
    pub fn revoke(&self, gateway: &str) -> Result<PathBuf> {
        let identity = self.lab.gateway(gateway).directory().join("etc/node.key");
        let shown = self.hand().gemctl(&["key", "show", text(&identity)])?;
        let node = shown["node_id"].as_str().unwrap_or_default();
        let (key, out) = (self.dir.join("kmg.key"), self.dir.join(format!("revoke-{gateway}.gem")));
        self.hand().gemctl(&["kmg", "revoke", "--key", text(&key), node, "--out", text(&out)])?;
        Ok(out)
    }

    /// Hands what was made to a gateway, from which it spreads.
    pub fn inject(&self, gateway: &str, file: &Path) -> Result<()> {
        self.lab.gateway(gateway).gemctl(&["kmg", "inject", text(file)]).map(drop)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the lab's paths are text")
}
