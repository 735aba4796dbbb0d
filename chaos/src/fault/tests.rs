use super::*;

const ALL: &[&str] = &[
    r#"{"fault":"kill"}"#,
    r#"{"fault":"pause"}"#,
    r#"{"fault":"freeze"}"#,
    r#"{"fault":"restart"}"#,
    r#"{"fault":"partition","direction":"in","from":"one","flap_ms":500}"#,
    r#"{"fault":"loss","percent":9}"#,
    r#"{"fault":"link","delay_ms":9}"#,
    r#"{"fault":"power_cut"}"#,
    r#"{"fault":"disk_full"}"#,
    r#"{"fault":"fsync_fails"}"#,
    r#"{"fault":"fsync_slow","delay_ms":9}"#,
    r#"{"fault":"bit_rot","bits":9}"#,
    r#"{"fault":"truncate"}"#,
    r#"{"fault":"old_database"}"#,
    r#"{"fault":"wipe"}"#,
    r#"{"fault":"clock","seconds":-9}"#,
    r#"{"fault":"cpu","percent":9}"#,
    r#"{"fault":"memory","mib":9}"#,
    r#"{"fault":"descriptors","more":9}"#,
];

#[test]
fn every_fault_is_called_what_an_experiment_calls_it() {
    for text in ALL {
        let fault: Fault = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&fault).unwrap()["fault"], fault.name());
        assert_eq!(fault.make_sense(), Ok(()), "{text}");
    }
}

#[test]
fn figures_that_can_not_be_meant_are_refused() {
    for (text, wanted) in [
        (r#"{"fault":"loss","percent":101}"#, "percent"),
        (r#"{"fault":"cpu","percent":0}"#, "paused"),
        (r#"{"fault":"partition","flap_ms":1}"#, "flap_ms"),
        (r#"{"fault":"fsync_slow","delay_ms":600000}"#, "delay_ms"),
        (r#"{"fault":"link"}"#, "breaks nothing"),
        (r#"{"fault":"link","loss_percent":101}"#, "percent"),
        (r#"{"fault":"clock","seconds":-99999999}"#, "seconds"),
        (r#"{"fault":"bit_rot","bits":0}"#, "bits"),
        (r#"{"fault":"loss","percent":0}"#, "breaks nothing"),
        (r#"{"fault":"fsync_slow","delay_ms":0}"#, "breaks nothing"),
        (r#"{"fault":"clock","seconds":0}"#, "breaks nothing"),
        (r#"{"fault":"memory","mib":17592186044416}"#, "no limit"),
        (r#"{"fault":"descriptors","more":18446744073709551615}"#, "no limit"),
        (r#"{"fault":"link","rate_kib":18014398509481984}"#, "limited by nothing"),
    ] {
        let fault: Fault = serde_json::from_str(text).unwrap();
        let told = fault.make_sense().unwrap_err();
        assert!(told.contains(wanted), "{text}: {told}");
    }
}
