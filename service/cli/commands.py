"""The whole command tree: what `resight --help` lists, in the order a newcomer meets it."""

from __future__ import annotations

import typer

from service.cli import (
    answers,
    bundles,
    calibration,
    catalogue,
    encounters,
    head,
    identity,
    jobs,
    operate,
    reindex,
    review,
    users,
)

app = typer.Typer(
    name="resight",
    help="Have we seen this individual before? Photo identification of wild animals.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("demo")(operate.demo)
app.command("serve")(operate.serve)
app.command("worker")(operate.worker)
app.command("identify")(answers.identify)
app.command("predict")(answers.predict)
app.command("batch")(answers.batch)
app.command("verify")(answers.verify)
app.command("import")(catalogue.import_photos)
app.add_typer(catalogue.individuals, name="individuals")
app.add_typer(identity.changes, name="changes")
app.add_typer(encounters.encounters, name="encounters")
app.command("queue")(review.show_queues)
app.add_typer(review.review, name="review")
app.add_typer(bundles.models, name="models")
app.add_typer(bundles.gate, name="gate")
bundles.models.command("spaces")(reindex.list_spaces)
bundles.models.command("retire")(reindex.retire_model)
app.add_typer(reindex.reindex, name="reindex")
app.add_typer(head.head, name="head")
app.command("calibrate")(calibration.calibrate)
app.add_typer(jobs.jobs, name="jobs")
app.add_typer(users.users, name="users")
app.add_typer(operate.keys, name="keys")
app.add_typer(users.audit, name="audit")
app.add_typer(operate.db, name="db")
app.command("doctor")(operate.doctor)
app.command("version")(operate.version)
