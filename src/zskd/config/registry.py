"""Registries: the names of methods, losses, networks and so on, with one registry for each kind.

The command line, recipes, `--help`, the tables of the docs and the contract tests read these registries.
There is no other list of such names. Entries are import strings, so that this file imports none of them.

To add something to the package: write one file and add one line here. Code outside the package needs no
entry: most registries also accept `file.py:Name` or `package.module:Name`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zskd.config.entries import Control, Entry, Family, PixelRule, Prefix, Registry, Sized

METHODS = Registry(
    "method",
    {
        "zskd": Entry(
            "zskd.synthesis.methods.zskd:ZSKD",
            "soft targets from Dirichlet distributions shaped by class similarity (Nayak et al. 2019)",
        ),
        "soft_targeted": Entry(
            "zskd.synthesis.methods.soft_targeted:SoftTargeted",
            "soft targets through the features before the last layer (Wang 2021)",
        ),
        "class_impressions": Entry(
            "zskd.synthesis.methods.class_impressions:ClassImpressions",
            "one-hot targets (Mopuri et al. 2018)",
        ),
        "deepinversion": Entry(
            "zskd.synthesis.methods.deepinversion:DeepInversion",
            "one-hot targets and the teacher's batch-norm statistics (Yin et al. 2020)",
        ),
        "zskd_bn": Entry(
            "zskd.synthesis.methods.zskd_bn:ZSKDWithStatistics",
            "the soft targets of zskd and the teacher's batch-norm statistics",
        ),
        "adi": Entry(
            "zskd.synthesis.methods.adi:AdaptiveDeepInversion",
            "deepinversion against a given student (Yin et al. 2020)",
        ),
        "boundary": Entry(
            "zskd.synthesis.methods.boundary:Boundary",
            "pairs on both sides of the teacher's decision (after Frank and Davis 2025)",
        ),
        "noise": Entry(
            "zskd.synthesis.methods.noise:Noise",
            "no optimisation: the start images (Nayak et al. 2021)",
        ),
    },
    takes_code=True,
)
"""Methods that make a transfer set: subclasses of `synthesis.methods.base.Method`."""

START_IMAGES = Registry(
    "start image",
    {
        "smooth": Entry("zskd.synthesis.pictures.noise:smooth", "sum of random grids of several sizes"),
        "shapes": Entry(
            "zskd.synthesis.pictures.shapes:shapes",
            "random shapes on a plain background (after Baradad et al. 2021)",
        ),
        "procedural": Entry(
            "zskd.synthesis.pictures.mixture:procedural", "a mixture of the five families below"
        ),
        "dead_leaves": Entry(
            "zskd.synthesis.pictures.leaves:dead_leaves",
            "textured objects of all sizes, one over the other (after Baradad et al. 2021)",
        ),
        "textures": Entry(
            "zskd.synthesis.pictures.families:textures", "noise of one band of frequencies and directions"
        ),
        "fractals": Entry("zskd.synthesis.pictures.families:fractals", "clouds with the spectrum 1/f^a"),
        "waves": Entry("zskd.synthesis.pictures.families:waves", "stripes, rings, checks and grids"),
        "gradients": Entry(
            "zskd.synthesis.pictures.families:gradients", "three colours that pass into each other"
        ),
        "uniform": Entry("zskd.synthesis.pictures.noise:uniform", "white noise of U(0, 1)"),
        "gaussian": Entry("zskd.synthesis.pictures.noise:gaussian", "white noise of N(0, 1)"),
    },
    takes_code=True,
)
"""Initial images of the optimisation: functions (streams, shape, box) → images."""

PIXEL_RULES = Registry(
    "pixel rule",
    {
        "project": PixelRule(
            "zskd.synthesis.inversion.pixels:project", "clipped to the input box at every step"
        ),
        "free": PixelRule("zskd.synthesis.inversion.pixels:free", "clipped only when stored"),
        "minmax": PixelRule(
            "zskd.synthesis.inversion.pixels:minmax",
            "the whole batch is stretched to the box at every step (the authors' release)",
            couples=True,
        ),
    },
)
"""Rules for pixels that leave the input box: functions (images, box) that change images in place."""

LOSSES = Registry(
    "loss",
    {
        "kl": Entry("zskd.distillation.losses:kl", "Kullback–Leibler divergence of the softened outputs"),
        "l1": Entry("zskd.distillation.losses:l1", "absolute difference of the logits"),
        "mse": Entry("zskd.distillation.losses:mse", "squared difference of the logits"),
        "ce": Entry("zskd.distillation.losses:ce", "cross-entropy with the teacher's predicted class"),
    },
    takes_code=True,
)
"""Losses of the student: functions (student's logits, teacher's logits, settings) → scalar."""

FEATURE_LOSSES = Registry(
    "feature loss",
    {
        "aligned": Entry(
            "zskd.distillation.features.aligned:Aligned",
            "the teacher's features, from the student's as they are or by a fixed linear map",
        ),
        "attention": Entry(
            "zskd.distillation.features.attention:Attention",
            "maps of where features are large (Zagoruyko and Komodakis 2017)",
        ),
        "fitnets": Entry(
            "zskd.distillation.features.fitnets:FitNets",
            "the teacher's features, from the student's by a 1×1 convolution (Romero et al. 2015)",
        ),
        "similarity": Entry(
            "zskd.distillation.features.similarity:Similarity",
            "which images of a batch have similar features (Tung and Mori 2019)",
        ),
    },
    takes_code=True,
)
"""Losses of features: subclasses of `distillation.features.base.FeatureLoss`."""

OPTIMISERS = Registry(
    "optimiser",
    {
        "adam": Entry("zskd.training.optimisers:adam", "Adam (Kingma and Ba 2015)"),
        "muon": Entry(
            "zskd.training.optimisers:muon", "momentum, orthogonal steps for matrices (Jordan et al. 2024)"
        ),
        "sgd": Entry("zskd.training.optimisers:sgd", "gradient descent with momentum 0.9"),
    },
    takes_code=True,
)
"""Optimisers: functions (parameters, learning rate) → optimiser."""

ARCHITECTURES = Registry(
    "model",
    {
        "lenet5": Entry("zskd.models.networks.lenet:lenet5", "LeNet-5"),
        "lenet5_half": Entry("zskd.models.networks.lenet:lenet5_half", "LeNet-5 with half the filters"),
        "lenet5_small": Entry("zskd.models.networks.lenet:lenet5_small", "the smaller half of DAFL and DFAD"),
        "lenet5_bn": Entry("zskd.models.networks.lenet:lenet5_bn", "LeNet-5 with batch-norm"),
        "resnet18": Entry(
            "zskd.models.networks.resnet:imagenet_resnet(depth=18)", "ResNet-18 for ImageNet (He et al. 2016)"
        ),
        "resnet34": Entry(
            "zskd.models.networks.resnet:imagenet_resnet(depth=34)", "ResNet-34 for ImageNet (He et al. 2016)"
        ),
        "resnet{depth}": Family(
            "zskd.models.networks.resnet:resnet",
            "ResNet for small images, depth 8, 14, 20, 32, 44, 56, … (He et al. 2016)",
            example="resnet20",
        ),
        "wrn-{depth}-{width}": Family(
            "zskd.models.networks.wide_resnet:wrn",
            "wide ResNet, e.g. wrn-16-1, wrn-40-2 (Zagoruyko and Komodakis 2016)",
            example="wrn-16-1",
        ),
        "vgg{depth}": Family(
            "zskd.models.networks.vgg:vgg",
            "chain of 3×3 convolutions, depth 8, 11, 13, 16, 19 (Simonyan and Zisserman 2015)",
            example="vgg8",
        ),
        "mobilenet": Entry(
            "zskd.models.networks.mobilenet:mobilenet",
            "depthwise and 1×1 convolutions in turn (Howard et al. 2017)",
        ),
        "mlp": Entry("zskd.models.networks.mlp:mlp", "linear layers, e.g. mlp(widths=(256, 128))"),
    },
    takes_code=True,
    takes_arguments=True,
)
"""Networks: functions (channels, classes, size, own arguments) → network. The user's own functions take only
the arguments in their name: `file.py:build(depth=20)`."""

HALF = "half"
_SIZE = "zskd.config.sizes:read_size"
STUDENTS = Registry(
    "student",
    {
        HALF: Entry("zskd.models.factory:half", "a copy of the teacher with half the filters"),
        "narrow:{share}": Sized(
            _SIZE,
            "a copy of the teacher with fewer channels, and this share of its multiply-adds",
            example="narrow:0.5",
        ),
        "params:{share}": Sized(
            _SIZE,
            "a copy of the teacher with fewer channels, and this share of its parameters",
            example="params:0.5",
        ),
        "width:{share}": Sized(
            _SIZE, "a copy of the teacher with this share of the channels of each layer", example="width:0.5"
        ),
        "depth:{share}": Sized(
            _SIZE,
            "a copy of the teacher with fewer residual blocks, and at most this share of its multiply-adds",
            example="depth:0.5",
        ),
        "budget:{size}": Sized(
            _SIZE,
            "a built-in network of at most 200k parameters, 5M multiply-adds, 2M-params, 800k-macs, or 0.3x "
            "of the teacher's multiply-adds",
            example="budget:200k",
        ),
        "auto": Sized(_SIZE, "the medium of three students that are timed", example="auto"),
        "auto:{size}": Sized(_SIZE, "small, medium or large of three students", example="auto:small"),
        **ARCHITECTURES,
        "timm:{name}": Prefix(
            "zskd.models.libraries.timm:TimmNetwork",
            "a network of timm with random weights",
            example="timm:resnet18",
        ),
        "torchvision:{name}": Prefix(
            "zskd.models.libraries.torchvision:TorchvisionNetwork",
            "a network of torchvision with random weights",
            example="torchvision:resnet18",
        ),
    },
    takes_code=True,
    takes_arguments=True,
)
"""Students: copies of the teacher that are narrower or less deep, the networks above by name or by size, and
those of libraries."""

GENERATOR_METHODS = Registry(
    "generator method",
    {
        "dfad": Entry(
            "zskd.distillation.adversarial.dfad:DFAD", "large differences of the logits (Fang et al. 2019)"
        ),
        "zskt": Entry(
            "zskd.distillation.adversarial.zskt:ZSKT",
            "large divergences of the outputs (Micaelli and Storkey 2019)",
        ),
        "dafl": Entry(
            "zskd.distillation.adversarial.dafl:DAFL",
            "images of which the teacher is certain, of all classes alike (Chen et al. 2019)",
        ),
        "dfq": Entry(
            "zskd.distillation.adversarial.dfq:DFQ",
            "large divergences on images with the teacher's batch-norm statistics (Choi et al. 2020)",
        ),
        "conditional": Entry(
            "zskd.distillation.adversarial.conditional:Conditional",
            "images of which the teacher is certain, with its batch-norm statistics, on which both disagree",
        ),
    },
    takes_code=True,
)
"""Objectives of a generator: subclasses of `distillation.adversarial.base.GeneratorMethod`."""

ENGINES = Registry(
    "engine",
    {
        "local": Entry("zskd.core.engines.local:LocalEngine", "processes of this machine"),
        "ray": Entry(
            "zskd.core.engines.ray:RayEngine",
            "a Ray cluster: that of RAY_ADDRESS or of this machine, else one is started",
        ),
        "ray:{address}": Prefix(
            "zskd.core.engines.ray:RayEngine",
            "the Ray cluster whose head is at HOST:PORT",
            example="ray:10.0.0.1:6379",
        ),
    },
)
"""Where shards, students and cells are made: classes of `core.engines`."""

CONTROLS = Registry(
    "control",
    {
        "class_impressions": Control("class_impressions", None, "class impressions"),
        "noise_smooth": Control("noise", "smooth", "smooth noise"),
        "noise_shapes": Control("noise", "shapes", "random shapes"),
        "noise_white": Control("noise", "uniform", "white noise"),
    },
)
"""Further arms of a run."""

REGISTRIES: Mapping[str, Registry[Any]] = {
    "--method": METHODS,
    "--synthesis.start": START_IMAGES,
    "--synthesis.pixels": PIXEL_RULES,
    "--distill.loss": LOSSES,
    "--distill.features.loss": FEATURE_LOSSES,
    "--distill.optimiser": OPTIMISERS,
    "--model": ARCHITECTURES,
    "--student": STUDENTS,
    "--distill.generator.method": GENERATOR_METHODS,
    "--controls": CONTROLS,
    "--engine": ENGINES,
}
"""Command-line option -> its registry."""
