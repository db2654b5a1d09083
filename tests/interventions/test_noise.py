"""Noise is noise, and a function of the sample alone; moments are what they say."""

import numpy as np
import pytest
import torch
from tiny import FAMILIES, make

import pid_lens
from pid_lens import Moments, Noise
from pid_lens.inputs import Samples, Spans
from pid_lens.interventions import Moment
from pid_lens.interventions.noise import gaussian_noise
from pid_lens.model import embed_arguments


def samples(*ids, tokens=40, start=0):
    mask = torch.zeros(len(ids), tokens + start, dtype=torch.bool)
    mask[:, start:] = True
    return Samples(
        ids=ids,
        spans=Spans(image=mask),
        options=torch.zeros(len(ids), 2).long(),
        labels=torch.zeros(len(ids)).long(),
    )


def moments(width=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale, shift = torch.rand(2, width, generator=generator) * 3 + 0.1
    vectors = torch.randn(500, width, generator=generator) * scale + shift
    return Moments(model="m", site="s", spans={"image": Moment.of(vectors)})


def drawn(which, draw=0, seed=0, dtype=torch.float32, span_moments=None):
    span_moments = span_moments or moments()
    width = len(span_moments["image"].mean)
    blank = torch.zeros(*which.spans.shape, width, dtype=dtype)
    return Noise("image", span_moments, seed=seed, draws=2).edit(blank, which, draw)


def test_its_moments_match():
    known = moments()
    noise = drawn(samples(*map(str, range(300))), span_moments=known).flatten(0, 1).double()
    error = (noise.mean(0) - known["image"].mean) / known["image"].std
    assert error.abs().max() < 5 / len(noise) ** 0.5
    ratio = noise.std(0) / known["image"].std
    assert (ratio - 1).abs().max() < 4 / len(noise) ** 0.5


def test_other_ids_spans_seeds_and_draws_are_uncorrelated():
    """Each pair is 200,000 numbers, so chance gives correlations of .002."""
    keys = [
        f"{seed}/{name}/{span}/{draw}"
        for seed in (0, 1)
        for name in ("a", "b")
        for span in ("image", "question")
        for draw in (0, 1)
    ]
    numbers = np.stack([gaussian_noise(key, 2000, 100).ravel() for key in keys])
    correlation = np.corrcoef(numbers) - np.eye(len(keys))
    assert np.abs(correlation).max() < 0.05
    known = moments()
    one = (drawn(samples("a", "b"), span_moments=known) - known["image"].mean) / known["image"].std
    pair = np.corrcoef(one[0].flatten(), one[1].flatten())[0, 1]
    assert abs(pair) < 0.1


def test_tokens_and_dimensions_are_uncorrelated():
    numbers = gaussian_noise("key", 64, 4096)
    rows = np.corrcoef(numbers) - np.eye(64)
    assert np.abs(rows).max() < 0.08


def test_the_same_id_draws_the_same_in_any_batch():
    alone = drawn(samples("b"))
    together = drawn(samples("a", "b", "c"))
    assert torch.equal(alone[0], together[1])
    shifted = drawn(samples("b", start=7))
    assert torch.equal(alone[0], shifted[0, 7:])
    assert (shifted[0, :7] == 0).all()
    longer = drawn(samples("b", tokens=55))
    assert torch.equal(alone[0], longer[0, :40])


@pytest.mark.parametrize("change", [{"seed": 1}, {"draw": 1}])
def test_seed_and_draw_change_it(change):
    assert not torch.equal(drawn(samples("a")), drawn(samples("a"), **change))


def test_half_precision_sees_the_same_noise():
    full, half = drawn(samples("a")), drawn(samples("a"), dtype=torch.bfloat16)
    assert torch.equal(full.bfloat16(), half)


def test_noise_needs_moments_of_its_span():
    with pytest.raises(ValueError, match=r"pid_lens\.calibrate"):
        Noise("image").edit(torch.zeros(1, 40, 64), samples("a"), 0)
    with pytest.raises(ValueError, match="no moments for span 'question'"):
        Noise("question").complete(moments=moments(), seed=0, draws=1)


def test_what_noise_says_itself_wins_over_the_lens():
    own = moments(seed=3)
    noise = Noise("image", own, seed=5, draws=4).complete(moments=moments(), seed=0, draws=1)
    assert (noise.moments, noise.seed, noise.draws) == (own, 5, 4)


# -------------------------------------------------------------------------------- moments


@pytest.mark.parametrize("family", FAMILIES)
def test_calibration_measures_the_decoders_input(family):
    model, batch = make(family)
    found = pid_lens.calibrate(model, [batch])
    anatomy = pid_lens.dissect(model)
    seen = []
    with (
        anatomy.decoder.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(
                embed_arguments(module, kwargs)["inputs_embeds"]
            ),
            with_kwargs=True,
        ),
        torch.no_grad(),
    ):
        model(**batch.inputs)
    for span in ("image", "question"):
        tokens = seen[0][batch.spans[span]].double()
        torch.testing.assert_close(found[span].mean, tokens.mean(0))
        torch.testing.assert_close(found[span].std, tokens.std(0, correction=0))
    assert "answer" not in found


def test_streamed_merged_and_whole_moments_agree():
    x = torch.randn(101, 8).double() * 3 + 100
    whole = Moment.of(x)
    parts = [Moment.of(part) for part in x.split(17)]
    left, right = sum(parts[1:], parts[0]), parts[0] + sum(parts[2:], parts[1])
    for merged in (left, right):
        assert merged.count == 101
        torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-13, atol=0)
        torch.testing.assert_close(merged.std, whole.std, rtol=1e-12, atol=0)


def test_a_long_stream_of_half_precision_does_not_stall():
    part = Moment.of(torch.full((10, 1), 0.9, dtype=torch.bfloat16))
    total = part
    for _ in range(999):
        total = total + part
    assert total.mean.item() == pytest.approx(torch.tensor(0.9).bfloat16().item(), abs=1e-12)


def test_moments_survive_a_file(tmp_path):
    known = moments()
    known.save(tmp_path / "moments.safetensors")
    again = Moments.load(tmp_path / "moments.safetensors")
    assert again.fingerprint == known.fingerprint
    assert (again.model, again.site, again["image"].count) == ("m", "s", 500)
    pid_lens.Reads.from_posteriors(torch.full((1, 3, 2, 2), -1.0)).save(tmp_path / "reads")
    with pytest.raises(ValueError, match=r"holds pid_lens\.Reads, not a pid_lens\.Moments"):
        Moments.load(tmp_path / "reads")


def test_moments_of_two_models_do_not_mix():
    other = Moments(model="another", site="s", spans=moments().spans)
    with pytest.raises(ValueError, match="belong to model another"):
        moments() + other


def test_calibration_refuses_nothing_and_warns_of_constants(llava):
    model, batch, _ = llava
    with pytest.raises(ValueError, match="no batch came"):
        pid_lens.calibrate(model, [])
    torch.nn.init.zeros_(model.model.multi_modal_projector.linear_2.weight)
    with pytest.warns(UserWarning, match="every embedding of span 'image' is the same"):
        pid_lens.calibrate(model, [batch])


def test_one_token_has_no_deviation(llava):
    model, batch, _ = llava
    one = torch.zeros_like(batch.spans["question"])
    one[:, -2] = True
    batch = pid_lens.Batch(
        inputs={name: value[:1] for name, value in batch.inputs.items()},
        spans={"question": one[:1]},
    )
    with pytest.raises(ValueError, match="'question' has one token in all"):
        pid_lens.calibrate(model, batch)


def test_calibration_takes_plain_inputs(digits_model):
    model, processor = digits_model
    (batch,) = pid_lens.demo.batches("synergy", n=32)
    said = pid_lens.calibrate(model, [batch])
    plain = pid_lens.calibrate(model, [batch.inputs], processor=processor)
    alone = pid_lens.calibrate(model, dict(batch.inputs), processor=processor)
    assert said.fingerprint == plain.fingerprint == alone.fingerprint


def test_fingerprints_tell_a_training_step():
    model, batch = make("llava")
    before = pid_lens.dissect(model).fingerprint()
    assert before == pid_lens.dissect(make("llava")[0]).fingerprint()
    optimiser = torch.optim.SGD(model.parameters(), 1e-3)
    model(**batch.inputs).logits.logsumexp(-1).sum().backward()
    optimiser.step()
    assert pid_lens.dissect(model).fingerprint() != before
