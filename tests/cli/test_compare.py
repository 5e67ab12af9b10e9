import typer
from typer.testing import CliRunner

from scadles.cli.compare import compare
from scadles.errors import DataError
from scadles.observe import DeviceSummary, Evaluation, EventLog, Header, Samples, Seconds, Step, Summary, events_path

SAMPLES = Samples(received=10, trained=6, dropped=3, held=1, rejected=0)
SECONDS = Seconds(wait=1.0, compute=0.1, sync=0.2)


def make_run(folder, method):
    folder.mkdir()
    header = Header(
        step=0, time_s=0.0, device=0, devices=1, method=method, seed=0, clock="wall", started_at="", versions={}
    )
    with EventLog(events_path(folder, 0), header, append=False) as log:
        for number in (1, 2):
            step = Step(
                step=number, time_s=float(number), batch=8, total_batch=8, offsets=(0, 7), rate_hz=8.0, wait_s=0.5,
                compute_s=0.1, sync_s=0.1, slowest=0, slowest_s=0.0, loss=1.0, lr=0.1, lr_scale=1.0, held=1, lag=0,
                dropped=0,
            )  # fmt: skip
            log.write(step)
        log.write(Evaluation(step=2, time_s=2.0, accuracy=0.9, loss=0.1, samples_trained=16))
    device = DeviceSummary(
        device=0, rate_hz=8.0, samples=SAMPLES, seconds=SECONDS, buffer_max_samples=2, bytes_sent=2000,
        slowest_steps=0, non_finite_steps=0,
    )  # fmt: skip
    Summary(
        method=method, clock="wall", devices=1, seed=0, model="mlp", dataset="digits", steps=2, time_s=2.0, wall_s=2.0,
        target_accuracy=0.9, time_to_target_s=2.0, final_accuracy=0.9, best_accuracy=0.9, samples=SAMPLES,
        buffer_max_samples=2, seconds=SECONDS, bytes_sent=2000, bytes_counted_by="kernel", collectives_per_step=1.0,
        lr_scale_mean=1.0, model_sha256="ab" * 32, ended_by="target", per_device=(device,),
    ).write(folder)  # fmt: skip
    return str(folder)


def invoke(*arguments):
    app = typer.Typer()
    app.command()(compare)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_runs_are_put_side_by_side(tmp_path):
    result = invoke(make_run(tmp_path / "a", "ddl"), make_run(tmp_path / "b", "scadles"))
    assert result.exit_code == 0
    assert "speed-up against a" in result.stdout
    assert "scadles" in result.stdout


def test_markdown_goes_to_standard_output(tmp_path):
    result = invoke(make_run(tmp_path / "a", "ddl"), "--markdown")
    assert result.exit_code == 0
    assert result.stdout.startswith("|  | a |\n| --- | ---: |\n| method | ddl |")


def test_a_picture_is_written_and_said(tmp_path):
    runs = [make_run(tmp_path / "a", "ddl"), make_run(tmp_path / "b", "scadles")]
    for count in (1, 2):
        out = tmp_path / f"{count}.png"
        result = invoke(*runs[:count], "--out", out)
        assert result.exit_code == 0
        assert out.stat().st_size > 10_000
        assert f"wrote {out}" in result.stderr


def test_a_folder_of_no_run_is_an_error(tmp_path):
    result = invoke(tmp_path)
    assert isinstance(result.exception, DataError)


def test_at_least_one_run_is_asked_for():
    assert invoke().exit_code == 2


def test_help_has_an_example():
    assert "Example: scadles compare" in invoke("--help").stdout
