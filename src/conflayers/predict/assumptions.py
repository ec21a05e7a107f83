"""What a prediction rests on, in sentences: printed beside every one."""

from conflayers.predict.prediction import Roofline


def assumptions(
    roofline: Roofline | None, acceptance: float, mean_accepted: float | None, overhead_ms: float
) -> list[str]:
    """The sentences.

    Args:
        roofline: where the costs come from; None for measured ones.
        acceptance, mean_accepted: as given to `prediction.table`.
        overhead_ms: milliseconds a draft step takes besides its pass.
    """
    found = ["This is a prediction, not a measurement."]
    if mean_accepted is None:
        found.append(
            f"Every drafted token is accepted with probability {acceptance:g} once all before it are, however many "
            "sublayers are skipped and however long the draft is."
        )
    else:
        found.append("The draft length is the mean that the mean accepted tokens and the acceptance rate imply.")
    found.append(
        f"A draft step takes {overhead_ms:g} ms besides its pass, and everything else between passes takes no time: "
        "choosing tokens, searching a plan, handling the cache. Drafts are chains. The prompt's pass is left out."
    )
    if roofline is None:
        return [*found, "Passes take the times given, whatever the draft length."]
    return found + _of_passes(roofline)


def _of_passes(roofline: Roofline) -> list[str]:
    machine, launch = roofline.machine, roofline.machine.accelerator.launch
    found = [
        f"A pass takes as long as the slowest of these: reading its weights and the cache of {roofline.context} tokens "
        f"once, its products, launching its kernels one by one at {launch:g} us each. Bandwidth and products are the "
        "maker's figures, which no real pass reaches: times are lower bounds, their ratios are closer.",
        "As many attentions as MLPs are skipped; embedding, last norm and head always run; activations take no time.",
    ]
    if machine.devices > 1:
        found.append(
            f"{machine.devices} devices share every matrix and add up after each sublayer in {machine.all_reduce:g} us."
        )
    if roofline.fits() is False:
        found.append(
            "The weights do not fit into the memory: the times are those of several such devices that bear some layers "
            "each and take turns, or of one with more memory."
        )
    return found
