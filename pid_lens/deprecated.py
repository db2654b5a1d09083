"""Deprecated names of version 0.1: each works for one version more, and warns where it is now."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from pid_lens.results import Spectrum

PACKAGE = "pid_lens"

NAMES = {
    "Atoms": "results",
    "Checked": "self_check",
    "Estimator": "estimators",
    "ForkEditError": "forward",
    "Intervention": "interventions",
    "OptionScores": "scoring",
    "Readout": "readouts",
    "Samples": "inputs",
    "batch_pid": "estimators",
    "concept_information": "estimators",
    "discrete_pid": "estimators",
    "flow_pid": "estimators",
    "gaussian_pid": "estimators",
    "mutual_information": "estimators",
    "posterior_pid": "estimators",
    "question_groups": "estimators",
    "score_options": "scoring",
}
"""What left the top of the package -> the room that exports it."""

MODULES = {
    "adapters.nnsight_internals": "adapters.nnsight.internals",
    "adapters.nnsight_plan": "adapters.nnsight.plan",
    "adapters.nnsight_remote": "adapters.nnsight.remote",
    "adapters.transformer_lens_closing": "adapters.transformer_lens.attention",
    "adapters.transformer_lens_internals": "adapters.transformer_lens.internals",
    "adapters.transformer_lens_trying": "adapters.transformer_lens.liveness",
    "anatomy": "model.anatomy",
    "atoms": "results.atoms",
    "attention": "forward.attention_mask model.masks model.indices",
    "checked": "self_check.report",
    "checking": "self_check.properties self_check.trial",
    "conditions": "interventions.conditions interventions.variation",
    "curves": "results.curve",
    "differences": "results.difference results.pairing results.layer_atoms",
    "donors": "interventions.donors interventions.calibration",
    "doubts": "results.layer_atoms",
    "entrances": "model.decoder_inputs model.families forward.fork",
    "errors": "results.sampling_error estimators.common.clusters",
    "estimators.arrays": "estimators.common.arrays",
    "estimators.batch.samples": "estimators.batch.from_samples",
    "estimators.batch.states": "estimators.batch.estimator",
    "estimators.components": "estimators.common.pca",
    "estimators.concepts.concepts": "estimators.concepts.from_samples",
    "estimators.concepts.information": "estimators.concepts.held_out_information",
    "estimators.concepts.states": "estimators.concepts.estimator",
    "estimators.exact": "estimators.broja",
    "estimators.exact.batches": "estimators.broja.solver.problems",
    "estimators.exact.binary": "estimators.broja.solver.binary",
    "estimators.exact.broja": "estimators.broja.estimator",
    "estimators.exact.cells": "estimators.broja.solver.cells",
    "estimators.exact.central_path": "estimators.broja.solver.central_path",
    "estimators.exact.certificate": "estimators.broja.solver.certificate",
    "estimators.exact.crossfit": "estimators.broja.cross_fit",
    "estimators.exact.discrete": "estimators.broja.from_joint",
    "estimators.exact.envelope": "estimators.broja.solver.envelope",
    "estimators.exact.influence": "estimators.broja.influence",
    "estimators.exact.interior_point": "estimators.broja.solver.interior_point",
    "estimators.exact.newton": "estimators.broja.solver.newton",
    "estimators.exact.posterior": "estimators.broja.from_posteriors",
    "estimators.exact.quantise": "estimators.broja.solver.quantise",
    "estimators.exact.repair": "estimators.broja.marginal_repair",
    "estimators.exact.resampling": "estimators.broja.resampling",
    "estimators.exact.response": "estimators.broja.solver.best_response",
    "estimators.exact.scaling": "estimators.broja.solver.scaling",
    "estimators.exact.solution": "estimators.broja.solver.solution",
    "estimators.exact.strata": "estimators.broja.strata",
    "estimators.flow.samples": "estimators.flow.from_samples",
    "estimators.flow.states": "estimators.flow.estimator",
    "estimators.folds": "estimators.common.folds",
    "estimators.gathering": "estimators.common.over_reads",
    "estimators.gaussian.closed_form": "estimators.gaussian.from_covariance",
    "estimators.gaussian.crossfit": "estimators.gaussian.cross_fit",
    "estimators.gaussian.samples": "estimators.gaussian.from_samples",
    "estimators.gaussian.states": "estimators.gaussian.estimator",
    "estimators.grouping": "estimators.common.clusters",
    "estimators.infonce.infonce": "estimators.infonce.estimator",
    "estimators.infonce.information": "estimators.infonce.from_samples",
    "estimators.measures": "estimators.common.entropy",
    "forking": "forward.rows model.call_arguments",
    "frameworks": "model.frameworks model.dissection forward.user_hooks",
    "hooks": "model.hooks model.call_arguments",
    "identity": "inputs.sample_ids",
    "image_only": "forward.image_only_probe",
    "instrument": "forward.recorder reads.draws",
    "intervening": "forward.intervention_scope",
    "interventions.fixed": "interventions.deterministic",
    "moments": "interventions.moments interventions.calibration",
    "one_call": "api",
    "options": "scoring",
    "options.choices": "inputs.options",
    "options.continuing": "scoring.continuation",
    "options.force": "scoring.under_interventions",
    "options.scores": "scoring.option_scores",
    "options.scoring": "scoring.whole_options",
    "options.sharing": "scoring.cache_sharing",
    "options.tokens": "scoring.option_tokens",
    "pile": "reads.buffer",
    "plots": "results.drawing results.curve",
    "positions": "forward.position_ids",
    "prompts": "inputs.prompts",
    "prompts.batching": "inputs.build_batch",
    "prompts.finding": "inputs.prompts.token_spans",
    "prompts.listing": "inputs.prompts.option_listing",
    "prompts.rendering": "inputs.prompts.chat_template",
    "prompts.several_images": "inputs.prompts.multi_image",
    "prompts.turns": "inputs.prompts.turns",
    "protocols": "interventions.protocol readouts.protocol estimators.protocol records",
    "readouts.basis": "readouts.training_basis",
    "readouts.tuning": "readouts.tuned_lens_training",
    "readouts.tuning_states": "readouts.training_states",
    "regions": "inputs.regions",
    "regions.boxes": "inputs.regions.boxes",
    "regions.geometry": "inputs.regions.families inputs.regions.grid",
    "regions.placement": "inputs.regions.placement inputs.regions.grid",
    "replay": "forward.replay inputs.batch_record",
    "samples": "inputs.samples inputs.batch_record",
    "soundness": "forward.preconditions model.preconditions forward.occupancy",
    "spans": "inputs.spans",
    "spectra": "results.spectrum",
    "storage": "records",
    "streams": "forward.stream model.indices forward.layer_answers",
    "watching": "forward.user_hooks forward.user_hook_guard",
}
"""An old module -> the modules that hold what it held; `compare` is the function of that name."""

RENAMED = {
    "Asked": "PromptRun",
    "Blockade": "AttentionKnockouts",
    "Entrance": "ImagePathway",
    "Fixed": "Deterministic",
    "Force": "UnderInterventions",
    "Gathering": "OverReads",
    "Instrument": "Recorder",
    "Intervening": "InterventionScope",
    "Pile": "ReadsBuffer",
    "Watch": "UserHookGuard",
    "answered": "posteriors_under",
    "by_hand": "is_user_call",
    "clusters": "as_clusters",
    "completely": "complete_interventions",
    "described": "describe_batch",
    "forbidden": "mask_pairs",
    "interval": "confidence_interval",
    "joined": "join_views",
    "layer_states": "residual_stream",
    "ours": "is_own_hook",
    "recognise": "resolve_samples",
    "refuse_lacking": "require_states",
    "refuse_options": "require_options",
    "refuse_unit": "require_unit",
    "said_by_settings": "settings_repr",
    "sound_states": "require_finite",
    "taken": "settings_from",
    "unwatched": "forward_without_hooks",
    "unwritten": "causal_mask",
    "watching": "guard_user_hooks",
}
"""A name of old modules that extensions may use -> its name now; private names are gone."""


def effects(change: Spectrum) -> pd.DataFrame:
    """Call `Spectrum.effects`, of which this is the old name.

    Example:
        >>> import torch
        >>> from pid_lens import BROJA, Reads, compare
        >>> chances = torch.tensor([.6, .7, .8, .9]).repeat(16)
        >>> p = torch.stack([chances, 1 - chances], -1).expand(1, 3, 64, 2)
        >>> one = BROJA().update(Reads.from_posteriors(p.log())).result()
        >>> effects(compare(one, one))["compensatory synergy"].tolist()
        [0.0]
    """
    return change.effects()


def find_old_name(name: str) -> Any:
    """Look up what a name at the top of the package meant in version 0.1.

    Raises:
        AttributeError: it meant nothing.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     found = find_old_name("score_options")
        >>> print(caught[0].message)
        pid_lens.score_options has moved: from pid_lens.scoring import score_options
    """
    if name == "effects":
        _warn("pid_lens.effects(change) is now change.effects()", stacklevel=4)
        return effects
    if name in NAMES:
        room = f"{PACKAGE}.{NAMES[name]}"
        _warn(f"{PACKAGE}.{name} has moved: from {room} import {name}", stacklevel=4)
        return getattr(import_module(room), name)
    if name in MODULES:
        _warn(_moved(name), stacklevel=4)
        return _stand_in(f"{PACKAGE}.{name}")
    raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r}")


def find_old_modules() -> None:
    """Let Python find the modules of version 0.1 under their old names.

    Example:
        >>> from importlib.util import find_spec
        >>> find_old_modules()  # as `import pid_lens` does; a second call changes nothing
        >>> find_spec("pid_lens.curves").name, find_spec("pid_lens.nope")
        ('pid_lens.curves', None)
    """
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        sys.meta_path.append(OldModules())


class OldModules(MetaPathFinder, Loader):
    """A finder for the modules of version 0.1, whose names are looked up where they are now.

    Example:
        >>> OldModules().find_spec("pid_lens.curves").name
        'pid_lens.curves'
        >>> OldModules().find_spec("pid_lens.results") is None
        True
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Make a spec for an old module, None for all other modules."""
        name = fullname.removeprefix(f"{PACKAGE}.")
        if name == fullname or name not in MODULES:
            return None
        is_package = any(other.startswith(f"{name}.") for other in MODULES)
        return ModuleSpec(fullname, self, is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make a module that looks its names up where they are now."""
        return _stand_in(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Warn, naming the modules that hold what this one held."""
        _warn(_moved(module.__name__.removeprefix(f"{PACKAGE}.")), stacklevel=3)


def _stand_in(fullname: str) -> ModuleType:
    module: Any = ModuleType(fullname, "Stands in an old module's place.")
    module.__getattr__ = partial(_look_up, fullname)
    return module


def _look_up(fullname: str, name: str) -> Any:
    old = fullname.removeprefix(f"{PACKAGE}.")
    if f"{old}.{name}" in MODULES:
        return _stand_in(f"{fullname}.{name}")
    if not name.startswith("__"):
        for home in MODULES[old].split():
            found = import_module(f"{PACKAGE}.{home}")
            for known in (name, RENAMED.get(name, name)):
                if hasattr(found, known):
                    return getattr(found, known)
    raise AttributeError(f"module {fullname!r} has no attribute {name!r}")


def _moved(name: str) -> str:
    homes = " and ".join(f"{PACKAGE}.{home}" for home in MODULES[name].split())
    return f"{PACKAGE}.{name} is now {homes}"


def _warn(message: str, stacklevel: int) -> None:
    # `from pid_lens import x` asks twice: the import system whether there is one, then the caller.
    if sys._getframe(stacklevel - 1).f_code.co_name != "_handle_fromlist":
        warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)
