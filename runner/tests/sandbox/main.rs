//! Claims about a whole run, each made by really running a shell in a root of its own. The program is its own
//! helper, so it has its own `main`. It knows nothing of how the crate does its work.
#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod inside;
mod lifetime;
mod mounts;
mod tree;

use std::path::Path;
use std::process::ExitCode;

const CLAIMS: &[(&str, fn())] = &[
    (
        "output_comes_line_by_line_and_the_code_is_told",
        lifetime::output_comes_line_by_line_and_the_code_is_told,
    ),
    ("a_death_by_signal_is_told", lifetime::a_death_by_signal_is_told),
    ("a_step_of_root_has_the_fourteen_capabilities", inside::a_step_of_root_has_the_fourteen_capabilities),
    ("a_step_of_a_user_has_none_of_them", inside::a_step_of_a_user_has_none_of_them),
    ("an_insecure_step_has_all_of_the_callers", inside::an_insecure_step_has_all_of_the_callers),
    ("system_calls_are_filtered_and_programs_may_gain_privileges", inside::system_calls_are_filtered),
    ("secrets_of_the_kernel_are_masked", inside::secrets_of_the_kernel_are_masked),
    ("kernel_settings_are_read_only", inside::kernel_settings_are_read_only),
    ("no_descriptor_leaks_into_the_step", inside::no_descriptor_leaks_into_the_step),
    ("the_step_is_process_one_of_its_own_session", inside::the_step_is_process_one_of_its_own_session),
    ("host_name_and_hosts_are_as_asked", inside::host_name_and_hosts_are_as_asked),
    ("the_mounts_are_the_usual_ones", inside::the_mounts_are_the_usual_ones),
    ("the_devices_are_the_usual_ones_and_no_other_can_be_opened", inside::devices_are_the_usual_ones),
    ("devices_that_are_given_can_be_used_and_leave_nothing", inside::given_devices_can_be_used),
    ("groups_that_are_given_are_added_to_the_users", inside::given_groups_are_added),
    ("mounts_of_the_host_are_as_restricted_as_asked", mounts::mounts_of_the_host_are_restricted),
    ("shm_has_the_size_that_was_asked_for", inside::shm_has_the_size_that_was_asked_for),
    ("users_are_resolved_in_the_root", inside::users_are_resolved_in_the_root),
    ("an_unknown_user_is_an_error_of_its_own", inside::an_unknown_user_is_an_error_of_its_own),
    ("special_passwd_files_do_not_hang", inside::special_passwd_files_do_not_hang),
    ("the_working_directory_is_made_for_the_user", inside::the_working_directory_is_made_for_the_user),
    ("a_working_directory_cannot_lead_out", inside::a_working_directory_cannot_lead_out),
    ("home_and_path_are_added", inside::home_and_path_are_added),
    ("standard_input_is_empty_and_output_can_be_reopened", inside::standard_streams_are_usable),
    ("limits_are_set_and_mask_is_022", inside::limits_are_set_and_mask_is_022),
    ("a_missing_program_is_an_error_of_its_own", lifetime::a_missing_program_is_an_error_of_its_own),
    (
        "a_program_that_is_being_written_is_waited_for",
        lifetime::a_program_that_is_being_written_is_waited_for,
    ),
    ("what_runs_in_the_background_dies_with_process_one", lifetime::background_dies_with_process_one),
    ("cancelling_kills_everything_at_once", lifetime::cancelling_kills_everything_at_once),
    ("killing_the_caller_leaves_no_process", lifetime::killing_the_caller_leaves_no_process),
    ("no_mount_is_seen_or_left_outside", mounts::no_mount_is_seen_or_left_outside),
    ("an_empty_step_leaves_no_trace", mounts::an_empty_step_leaves_no_trace),
    ("targets_are_taken_away_unless_used", mounts::targets_are_taken_away_unless_used),
    ("an_existing_target_stays", mounts::an_existing_target_stays),
    ("mounts_nest_whatever_their_order", mounts::mounts_nest_whatever_their_order),
    ("bind_mounts_show_their_source_and_read_only_ones_refuse_writes", mounts::bind_mounts_show_their_source),
    ("secrets_are_in_memory_with_their_mode", mounts::secrets_are_in_memory_with_their_mode),
    (
        "the_root_and_kernel_file_systems_are_no_targets",
        mounts::the_root_and_kernel_file_systems_are_no_targets,
    ),
    ("links_in_the_root_do_not_lead_out", mounts::links_in_the_root_do_not_lead_out),
    ("a_swapped_parent_is_not_followed_at_the_end", mounts::a_swapped_parent_is_not_followed_at_the_end),
    ("without_a_network_there_is_only_loopback", inside::without_a_network_there_is_only_loopback),
    ("many_runs_at_once_do_not_disturb_each_other", lifetime::many_runs_at_once_do_not_disturb_each_other),
    ("many_mounts_are_possible", mounts::many_mounts_are_possible),
    ("the_helpers_program_cannot_be_written", lifetime::the_helpers_program_cannot_be_written),
    ("an_overlay_shows_no_trace_of_a_step", mounts::an_overlay_shows_no_trace_of_a_step),
    ("programs_of_32_bits_run", inside::programs_of_32_bits_run),
];

/// The argument that makes this program a caller that waits to be killed; the folder of its root follows.
const CALLER: &str = "caller-to-be-killed";

/// The argument that makes this program measure the overhead of a run.
const MEASURE: &str = "measure";

fn main() -> ExitCode {
    kiln_runner::child_entry_point();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some(CALLER) => return lifetime::be_killed(Path::new(&args[1])),
        Some(MEASURE) => return lifetime::measure(),
        Some("--list") => {
            CLAIMS.iter().for_each(|(name, _)| println!("{name}: test"));
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    if !rustix::process::geteuid().is_root() {
        println!("test result: ok. 0 passed; 0 failed; {} ignored (not root)", CLAIMS.len());
        return ExitCode::SUCCESS;
    }
    let filter = args.iter().find(|arg| !arg.starts_with('-')).cloned().unwrap_or_default();
    let (mut passed, mut failed) = (0, 0);
    for (name, claim) in CLAIMS.iter().filter(|(name, _)| name.contains(&filter)) {
        let holds = std::panic::catch_unwind(claim).is_ok();
        println!("test {name} ... {}", if holds { "ok" } else { "FAILED" });
        *if holds { &mut passed } else { &mut failed } += 1;
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
