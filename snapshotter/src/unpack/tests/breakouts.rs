//! The breakouts that containerd's tests try, by their names there: each stays inside.
//! It does not know other tars.

use super::*;

const ETC: &str = "/etc";

fn etc() -> Member {
    dir("etc/")
}

fn passwd() -> Member {
    file("etc/passwd", "pass")
}

#[test]
fn links_to_elsewhere_are_places_inside() {
    check(
        "SymlinkAbsolute",
        &[etc(), passwd(), symlink(ETC, "localetc"), file("/localetc/unbroken", "u")],
        Ok("etc/ etc/passwd=pass etc/unbroken=u localetc->/etc"),
    );
    check(
        "SymlinkUpAndOut",
        &[
            etc(),
            passwd(),
            dir("dummy/"),
            symlink("/dummy/../etc", "localetc"),
            file("/localetc/unbroken", "u"),
        ],
        Ok("dummy/ etc/ etc/passwd=pass etc/unbroken=u localetc->/dummy/../etc"),
    );
    check(
        "SymlinkMultipleAbsolute",
        &[
            etc(),
            passwd(),
            dir("dummy/"),
            symlink("/etc", "/dummy/etc"),
            symlink("/dummy/etc", "localetc"),
            file("/dummy/etc/unbroken", "u"),
        ],
        Ok("dummy/ dummy/etc->/etc etc/ etc/passwd=pass etc/unbroken=u localetc->/dummy/etc"),
    );
    check(
        "SymlinkMultipleRelative",
        &[
            etc(),
            passwd(),
            dir("dummy/"),
            symlink("/etc", "/dummy/etc"),
            symlink("./dummy/etc", "localetc"),
            file("/localetc/unbroken", "u"),
        ],
        Ok("dummy/ dummy/etc->/etc etc/ etc/passwd=pass etc/unbroken=u localetc->./dummy/etc"),
    );
    check(
        "SymlinkEmptyFile",
        &[etc(), file("etc/emptied", "notempty"), symlink("/etc", "localetc"), file("/localetc/emptied", "")],
        Ok("etc/ etc/emptied= localetc->/etc"),
    );
}

#[test]
fn hard_links_to_elsewhere_are_files_inside() {
    check(
        "HardlinkRelative",
        &[
            etc(),
            passwd(),
            dir("breakouts/"),
            symlink("../../etc", "breakouts/d1"),
            link("/breakouts/d1/passwd", "localpasswd"),
        ],
        Ok("breakouts/ breakouts/d1->../../etc etc/ etc/passwd=pass#1 localpasswd=pass#1"),
    );
    check(
        "HardlinkDownAndOut",
        &[
            etc(),
            passwd(),
            dir("breakouts/"),
            dir("downandout/"),
            symlink("../downandout/../../etc", "breakouts/d1"),
            link("/breakouts/d1/passwd", "localpasswd"),
        ],
        Ok(
            "breakouts/ breakouts/d1->../downandout/../../etc downandout/ etc/ etc/passwd=pass#1 localpasswd=pass#1",
        ),
    );
    check(
        "HardlinkAbsolute",
        &[etc(), passwd(), symlink("/etc", "localetc"), link("/localetc/passwd", "localpasswd")],
        Ok("etc/ etc/passwd=pass#1 localetc->/etc localpasswd=pass#1"),
    );
    check(
        "HardlinkRelativeLong",
        &[
            etc(),
            passwd(),
            symlink("../../../../../../../etc", "localetc"),
            link("/localetc/passwd", "localpasswd"),
        ],
        Ok("etc/ etc/passwd=pass#1 localetc->../../../../../../../etc localpasswd=pass#1"),
    );
    check(
        "HardlinkRelativeUpAndOut",
        &[
            etc(),
            passwd(),
            symlink("upandout/../../../etc", "localetc"),
            link("/localetc/passwd", "localpasswd"),
        ],
        Ok("etc/ etc/passwd=pass#1 localetc->upandout/../../../etc localpasswd=pass#1"),
    );
    check(
        "HardlinkDirectRelative",
        &[etc(), passwd(), link("../../../../../etc/passwd", "localpasswd")],
        Ok("etc/ etc/passwd=pass#1 localpasswd=pass#1"),
    );
    check(
        "HardlinkDirectAbsolute",
        &[etc(), passwd(), link("/etc/passwd", "localpasswd")],
        Ok("etc/ etc/passwd=pass#1 localpasswd=pass#1"),
    );
}

#[test]
fn links_in_odd_places_stay_inside() {
    check(
        "SymlinkParentDirectory",
        &[etc(), passwd(), symlink("/etc/", ".."), file("/etc/unbroken", "u")],
        Ok("etc/ etc/passwd=pass etc/unbroken=u"),
    );
    check(
        "SymlinkEmptyFilename",
        &[etc(), passwd(), symlink("/etc/", ""), file("/unbroken", "u")],
        Ok("etc/ etc/passwd=pass unbroken=u"),
    );
    check(
        "SymlinkParentRelative",
        &[etc(), passwd(), symlink("/etc/", "localetc/sub/.."), file("/etc/unbroken", "u")],
        Ok("etc/ etc/passwd=pass etc/unbroken=u localetc->/etc/"),
    );
    check(
        "SymlinkSlashEnded",
        &[etc(), passwd(), dir("localetc/"), symlink("/etc", "localetc/"), file("/localetc/unbroken", "u")],
        Ok("etc/ etc/passwd=pass etc/unbroken=u localetc->/etc"),
    );
}

#[test]
fn directories_and_links_in_place_of_each_other_stay_inside() {
    check(
        "SymlinkOverrideDirectory",
        &[etc(), passwd(), dir("localetc/"), symlink("/etc", "localetc"), file("/localetc/unbroken", "u")],
        Ok("etc/ etc/passwd=pass etc/unbroken=u localetc->/etc"),
    );
    check(
        "SymlinkOverrideDirectoryRelative",
        &[
            etc(),
            passwd(),
            dir("localetc/"),
            symlink("../etc", "localetc/sub/.."),
            file("/localetc/unbroken", "u"),
        ],
        Ok("etc/ etc/passwd=pass etc/unbroken=u localetc->../etc"),
    );
    check(
        "DirectoryOverrideSymlink",
        &[etc(), passwd(), symlink("/etc", "localetc"), dir("localetc/"), file("/localetc/unbroken", "u")],
        Ok("etc/ etc/passwd=pass localetc/ localetc/unbroken=u"),
    );
    check(
        "DirectoryOverrideSymlinkAndHardlink",
        &[
            etc(),
            passwd(),
            symlink("etc", "localetc"),
            link("/localetc", "linked"),
            dir("localetc/"),
            file("/localetc/unbroken", "u"),
            file("/linked/too", "t"),
        ],
        Ok("etc/ etc/passwd=pass etc/too=t linked->etc localetc/ localetc/unbroken=u"),
    );
    check(
        "SymlinkOverridePath",
        &[
            etc(),
            passwd(),
            symlink("/etc", "localetc"),
            file("localetc/passwd", "new"),
            symlink("/etc/passwd", "localetc/passwd"),
        ],
        Ok("etc/ etc/passwd->/etc/passwd localetc->/etc"),
    );
}

#[test]
fn whiteouts_stay_inside() {
    check("WhiteoutRootParent", &[etc(), passwd(), file(".wh...", "")], Err("whiteout"));
    check("WhiteoutParent", &[etc(), passwd(), file("etc/.wh...", "")], Err("whiteout"));
    check("WhiteoutRoot", &[etc(), passwd(), file(".wh..", "")], Err("whiteout"));
    check("WhiteoutCurrentDirectory", &[etc(), passwd(), file("etc/.wh..", "")], Err("whiteout"));
    check(
        "WhiteoutSymlink",
        &[etc(), passwd(), symlink("/etc", "localetc"), file(".wh.localetc", "")],
        Ok("etc/ etc/passwd=pass localetc->/etc"),
    );
    check(
        "WhiteoutSymlinkPath",
        &[etc(), passwd(), file("etc/x", "x"), symlink("/etc", "localetc"), file("localetc/.wh.gone", "")],
        Ok("etc/ etc/gone:Whiteout etc/passwd=pass etc/x=x localetc->/etc"),
    );
    check("WhiteoutDirectoryName", &[etc(), passwd(), dir(".wh.etc/")], Ok("etc/ etc/passwd=pass"));
    check(
        "WhiteoutDeadSymlinkParent",
        &[
            etc(),
            passwd(),
            symlink("/nothing", "passwd"),
            file("etc/.wh..wh..opq", ""),
            file("passwd/.wh.x", ""),
        ],
        Ok("etc/ etc/passwd=pass nothing/ nothing/x:Whiteout passwd->/nothing"),
    );
    check(
        "WhiteoutRelativePath",
        &[etc(), passwd(), dir("dummy/"), file("dummy/../.wh.gone", "")],
        Ok("dummy/ etc/ etc/passwd=pass gone:Whiteout"),
    );
}

#[test]
fn hard_links_to_links_are_links() {
    check(
        "HardlinkSymlinkBeforeCreateTarget",
        &[etc(), symlink("/localetc/passwd", "localpasswd"), link("localpasswd", "l"), file("l", "n")],
        Ok("etc/ l=n localpasswd->/localetc/passwd"),
    );
    check(
        "HardlinkSymlinkRelative",
        &[
            etc(),
            passwd(),
            symlink("../../../../../etc/passwd", "etc/relative"),
            link("etc/relative", "l"),
            file("l", "n"),
        ],
        Ok("etc/ etc/passwd=pass etc/relative->../../../../../etc/passwd l=n"),
    );
    check(
        "HardlinkSymlinkAbsolute",
        &[etc(), passwd(), symlink("/etc/passwd", "abs"), link("abs", "l"), file("l", "n")],
        Ok("abs->/etc/passwd etc/ etc/passwd=pass l=n"),
    );
    check(
        "HardlinkSymlinkChmod",
        &[etc(), passwd(), symlink("/etc/passwd", "s"), Member { mode: 0o4777, ..link("s", "l") }],
        Ok("etc/ etc/passwd=pass l->/etc/passwd s->/etc/passwd"),
    );
}
