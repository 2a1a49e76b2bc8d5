"""The results of an experiment for programs: what its page shows, as plain JSON."""

from __future__ import annotations

from dataclasses import asdict

from zskd.core.artefact import JsonObject
from zskd.evaluation.statistics import summarise
from zskd.experiment.definition import Experiment
from zskd.experiment.report.page import comparisons_of
from zskd.experiment.report.tables import Records, accuracies, compared


def document_of(records: Records, experiment: Experiment) -> JsonObject:
    """Return test accuracy by arm and rate in percent, and the planned comparisons in points.

    Args:
        records: of the experiment.
        experiment: with its planned comparisons.
    """
    planned = comparisons_of(experiment)
    return {
        "experiment": experiment.name,
        "records": len(records),
        "results": [
            {"arm": arm, "title": records.title(arm), "rate": rate, **asdict(summarise(values.values()))}
            for arm in records.arms
            for rate in (*records.rates(arm), None)
            if (values := accuracies(records.at(arm, rate)))
        ],
        "comparisons": [
            {
                **{"first": one.first[0], "first_rate": one.first[1]},
                **{"second": one.second[0], "second_rate": one.second[1]},
                **{key: getattr(found, key, None) for key in ("n", "mean", "deviation", "low", "high", "p")},
                "p_holm": adjusted,
            }
            for one, (found, adjusted) in zip(planned, compared(records, planned), strict=True)
        ],
    }
