//! Rows of what is listed, in one of the forms that `--format` names: a table, JSON, a template.
//! It does not know what the rows are of.

use crate::error::CommandError;
use crate::table::table;
use crate::template::{Template, Value, format_error};

/// What `--format` asks for.
pub(crate) enum Form {
    /// The command's own table.
    Table,
    /// An object a line.
    Json,
    /// A template for each row; with the heads above if it is a table.
    Template { template: Template, is_table: bool },
}

impl Form {
    /// Reads `--format`: `table`, `json`, `table TEMPLATE` or a template.
    pub fn read(text: Option<&str>) -> Result<Form, CommandError> {
        let template = |text: &str, is_table| {
            // A shell's quotes leave these two as they are written.
            let text = text.replace("\\t", "\t").replace("\\n", "\n");
            let template = Template::parse(&text).map_err(format_error)?;
            Ok(Form::Template { template, is_table })
        };
        match text {
            None | Some("table" | "") => Ok(Form::Table),
            Some("json") => Ok(Form::Json),
            Some(text) => match text.strip_prefix("table ") {
                Some(text) => template(text.trim_start(), true),
                None => template(text, false),
            },
        }
    }

    /// The rows in this form; `own` makes the command's own table.
    pub fn show(
        &self,
        heads: &[(&str, &str)],
        rows: &[serde_json::Value],
        own: impl FnOnce() -> String,
    ) -> Result<String, CommandError> {
        let Form::Template { template, is_table } = self else {
            return Ok(match self {
                Form::Json => rows.iter().map(|row| format!("{row}\n")).collect(),
                _ => own(),
            });
        };
        let mut lines = Vec::new();
        if *is_table {
            let heads = heads.iter().map(|(name, head)| ((*name).to_owned(), (*head).into()));
            let heads = Value::of(serde_json::Value::Object(heads.collect()));
            lines.push(template.heads(&heads).map_err(format_error)?);
        }
        for row in rows {
            lines.push(template.fill(&Value::of(row.clone())).map_err(format_error)?);
        }
        if *is_table {
            let cells = |line: &String| line.split('\t').map(str::to_owned).collect::<Vec<String>>();
            return Ok(table(&lines.iter().map(cells).collect::<Vec<_>>()));
        }
        Ok(lines.iter().map(|line| format!("{line}\n")).collect())
    }
}
