//! What templates give, as the documentation of Go's text/template and of docker has it.

use super::{Flaw, Template, Value};
use serde_json::json;

fn image() -> Value {
    Value::of(json!({
        "Id": "sha256:ab", "Size": 12, "Big": true, "RepoTags": ["a:1", "b:2"], "Author": "",
        "Config": {"Env": ["A=1", "B=2"], "Entrypoint": null, "Labels": {"x": "1", "y.z": "2"}, "User": "me"},
        "RootFS": {"Type": "layers", "Layers": ["one", "two"]},
    }))
}

fn filled(text: &str) -> Result<String, Flaw> {
    Template::parse(text)?.fill(&image())
}

#[test]
fn templates_give_what_go_gives() {
    for (text, want) in [
        ("plain", "plain"),
        ("{{.Id}}", "sha256:ab"),
        ("{{ .Config.Env }}", "[A=1 B=2]"),
        ("{{.Config.Labels}}", "map[x:1 y.z:2]"),
        ("{{.Config.Entrypoint}}", "[]"),
        ("{{json .Config.Entrypoint}}", "null"),
        ("{{.Config.Labels.x}}{{.Config.Labels.none}}", "1<no value>"),
        ("{{index .Config.Labels \"y.z\"}}{{index .Config.Labels \"none\"}}", "2"),
        ("{{json .Config.Labels}}", "{\"x\":\"1\",\"y.z\":\"2\"}"),
        ("{{range .RootFS.Layers}}{{.}},{{end}}", "one,two,"),
        ("{{range $i, $l := .RootFS.Layers}}{{$i}}={{$l}} {{end}}", "0=one 1=two "),
        ("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}};{{end}}", "x:1;y.z:2;"),
        ("{{range .Config.Entrypoint}}x{{else}}none{{end}}", "none"),
        ("{{range .RootFS.Layers}}{{if eq . \"two\"}}{{break}}{{end}}{{.}}{{end}}", "one"),
        ("{{range .RootFS.Layers}}{{if eq . \"one\"}}{{continue}}{{end}}{{.}}{{end}}", "two"),
        ("{{if .Author}}by{{else if .Big}}big{{else}}small{{end}}", "big"),
        ("{{with .Config}}{{.User}} of {{$.Id}}{{end}}", "me of sha256:ab"),
        ("{{with .Author}}x{{else}}nobody{{end}}", "nobody"),
        ("{{len .RepoTags}} {{len .Id}} {{len .Config.Entrypoint}}", "2 9 0"),
        ("{{index .RepoTags 1}} {{(index .RepoTags 0)}}", "b:2 a:1"),
        ("{{join .Config.Env \",\"}}", "A=1,B=2"),
        ("{{index (split .Id \":\") 1 | upper}}", "AB"),
        ("{{slice .Id 7}}{{slice .Id 0 3}}", "absha"),
        (
            "{{printf \"%-5s|%5d|%q|%v\" .Config.User .Size .Id .RepoTags}}",
            "me   |   12|\"sha256:ab\"|[a:1 b:2]",
        ),
        ("{{$x := .Id}}{{$x}}{{$x = \"b\"}}{{$x}}", "sha256:abb"),
        ("a {{- .Size -}} b", "a12b"),
        ("a {{/* note */ -}} b", "a b"),
        ("{{and .Big .Size}} {{or .Author .Id}} {{not .Big}}", "12 sha256:ab false"),
        ("{{eq .Size 1 12}} {{ne .Id \"x\"}} {{gt .Size 3}} {{le .Size 11.5}}", "true true true false"),
        ("{{print 1 2 \"a\" 3}} {{println \"x\"}}", "1 2a3 x\n"),
        ("{{title \"ab cd\"}}{{lower \"AB\"}}{{truncate .Id 3}}{{pad \"x\" 1 2}}|", "Ab Cdabsha x  |"),
        ("{{`a\\n`}}{{\"\\t\"}}", "a\\n\t"),
        ("{{if and (eq .Size 12) (or .Author .Big)}}yes{{end}}", "yes"),
        ("{{.Config.User | printf \"%s-%s\" .Id}}", "sha256:ab-me"),
        ("{{(.Config).User}} {{$.Config.User}}", "me me"),
        ("{{nil | json}}", "null"),
    ] {
        assert_eq!(filled(text).as_deref(), Ok(want), "{text}");
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, at, says) in [
        ("{{.Confg}}", 3, "did you mean .Config?"),
        ("{{.config}}", 3, "did you mean .Config?"),
        ("ab {{.Config.Envs}}", 13, "did you mean .Env?"),
        ("{{.Nonsense}}", 3, "there are .Author .Big"),
        ("{{.Id.X}}", 6, "a text has no field .X"),
        ("{{jsn .}}", 3, "did you mean `json`?"),
        ("{{.Id", 1, "has no }}"),
        ("{{if .Id}}x", 3, "has no {{end}}"),
        ("x{{end}}", 7, "no {{if}}"),
        ("{{range .Id}}{{end}}", 9, "range can't go over a text"),
        ("{{index .RepoTags 7}}", 3, "out of range: there are 2"),
        ("{{$x}}", 3, "the variable $x is not there"),
        ("{{\"a}}", 3, "not closed"),
        ("{{}}", 3, "missing"),
        ("{{.Id | .Size}}", 9, "can't be given"),
        ("{{.Id .Size}}", 7, "only a function"),
        ("{{(.Id}}", 3, "has no )"),
        ("{{lt .Id .Size}}", 3, "can't be compared"),
        ("{{break}}", 3, "stands in no {{range}}"),
        ("{{len}}", 3, "can't be given nothing"),
        ("{{.Id ! }}", 7, "means nothing"),
    ] {
        let flaw = filled(text).expect_err(text);
        assert!(flaw.problem.contains(says), "{text}: {flaw:?}");
        assert_eq!(flaw.at, at, "{text}: {flaw:?}");
    }
}

#[test]
fn heads_of_columns_pass_through_functions() {
    let heads = Value::of(json!({"ID": "IMAGE ID", "Labels": "LABELS"}));
    let head = |text: &str| Template::parse(text).and_then(|template| template.heads(&heads));
    assert_eq!(head("{{.ID}}\t{{json .Labels}}").as_deref(), Ok("IMAGE ID\tLABELS"));
    assert_eq!(head("{{join .Labels \",\"}} {{.Labels.x}}").as_deref(), Ok("LABELS LABELS"));
    assert!(head("{{.Nothing}}").is_err());
}

#[test]
fn what_nests_too_deeply_is_refused() {
    let deep = format!("{{{{{}1{}}}}}", "(".repeat(5000), ")".repeat(5000));
    assert!(filled(&deep).is_err_and(|flaw| flaw.problem.contains("nested")));
    let deep = "{{if true}}".repeat(5000) + &"{{end}}".repeat(5000);
    assert!(filled(&deep).is_err_and(|flaw| flaw.problem.contains("nested")));
}
