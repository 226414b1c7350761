"""torch.func transforms of the operation and of blocks: equal to loops over samples and to autograd."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

import torch_nonlocal as nl
from torch_nonlocal import functional
from torch_nonlocal.ops import dispatch

FORMS = {
    form: [name for name in functional.ALGORITHMS[form] if (form, name) != ("gaussian", "fused")]
    for form in functional.ALGORITHMS
}
CASES = [(form, name) for form, names in FORMS.items() for name in names]


@pytest.fixture(autouse=True)
def no_map_is_small(monkeypatch):
    """So that "auto" does not use the definition for the small maps of these tests."""
    monkeypatch.setattr(dispatch, "DENSE_BYTES", 0)


def operation(form, algorithm="dense"):
    if form == "concatenation":
        return lambda t, p, g: functional.concatenation(t[..., 0], p[..., 0], g, algorithm=algorithm)
    return lambda t, p, g: getattr(functional, form)(t, p, g, algorithm=algorithm)


def inputs(*lead):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*lead, 2, n, 3, generator=generator, dtype=torch.float64) for n in (5, 4, 4)]


@pytest.mark.parametrize(("form", "algorithm"), CASES)
class TestOperation:
    def test_vmap(self, form, algorithm):
        samples = inputs(3)
        y = vmap(operation(form, algorithm))(*samples)
        expected = [operation(form)(*(x[i] for x in samples)) for i in range(3)]
        torch.testing.assert_close(y, torch.stack(expected))

    def test_vmap_over_the_batch_axis_and_over_one_input(self, form, algorithm):
        theta, phi, g = inputs()

        def one(t, p, v):
            return operation(form, algorithm)(t[None], p[None], v[None])[0]

        expected = operation(form)(theta, phi, g)
        torch.testing.assert_close(vmap(one)(theta, phi, g), expected)
        torch.testing.assert_close(vmap(one, in_dims=(1, 2, 0))(theta.movedim(0, 1), phi.movedim(0, 2), g), expected)
        same_keys = [operation(form)(theta[[i]], phi[[0]], g[[0]])[0] for i in range(2)]
        torch.testing.assert_close(vmap(one, in_dims=(0, None, None))(theta, phi[0], g[0]), torch.stack(same_keys))

    def test_grad(self, form, algorithm):
        x = inputs()
        gradients = grad(lambda *x: operation(form, algorithm)(*x).square().sum(), argnums=(0, 1, 2))(*x)
        leaves = [tensor.clone().requires_grad_() for tensor in x]
        expected = torch.autograd.grad(operation(form)(*leaves).square().sum(), leaves)
        torch.testing.assert_close(gradients, expected)

    def test_jvp_and_jacobians(self, form, algorithm):
        x, tangents = inputs(), tuple(torch.ones_like(tensor) for tensor in inputs())
        chosen, definition = operation(form, algorithm), operation(form)
        torch.testing.assert_close(jvp(chosen, tuple(x), tangents), jvp(definition, tuple(x), tangents))
        expected = torch.autograd.functional.jacobian(lambda t: definition(t, *x[1:]), x[0])
        torch.testing.assert_close(jacrev(chosen)(*x), expected)
        torch.testing.assert_close(jacfwd(chosen)(*x), expected)
        vectorized = torch.autograd.functional.jacobian(lambda t: chosen(t, *x[1:]), x[0], vectorize=True)
        torch.testing.assert_close(vectorized, expected)

    def test_hessian(self, form, algorithm):
        x = inputs()
        scalar = lambda name: lambda t: operation(form, name)(t, *x[1:]).square().sum()  # noqa: E731
        expected = torch.autograd.functional.hessian(scalar("dense"), x[0])
        torch.testing.assert_close(hessian(scalar(algorithm))(x[0]), expected)
        torch.testing.assert_close(torch.autograd.functional.hessian(scalar(algorithm), x[0]), expected)


def trained(pairwise, algorithm="auto", **options):
    torch.manual_seed(0)
    block = nl.NonLocal2d(4, pairwise=pairwise, algorithm=algorithm, **options).double().eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    return block


@pytest.mark.parametrize("options", [{}, {"norm": "group"}, {"subsample": 2}, {"norm": "layer"}], ids=str)
@pytest.mark.parametrize(("form", "algorithm"), CASES)
def test_per_sample_gradients_of_a_block(form, algorithm, options):
    block = trained(form, algorithm, **options)
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    parameters = {name: parameter.detach() for name, parameter in block.named_parameters()}

    def loss(values, sample):
        return functional_call(block, values, (sample[None],)).square().mean()

    gradients = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(3):
        block.zero_grad()
        block(x[[i]]).square().mean().backward()
        for name, parameter in block.named_parameters():
            torch.testing.assert_close(gradients[name][i], parameter.grad)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_samples_of_a_block(form):
    block, x = trained(form, norm="group"), torch.randn(3, 4, 6, 6, dtype=torch.float64)
    loss = lambda sample: block(sample[None]).square().mean()  # noqa: E731
    expected = torch.stack([grad(loss)(sample) for sample in x])
    leaf = x.clone().requires_grad_()
    sum(block(sample[None]).square().mean() for sample in leaf).backward()
    torch.testing.assert_close(expected, leaf.grad)
    torch.testing.assert_close(vmap(grad(loss))(x), expected)
    torch.testing.assert_close(vmap(grad(loss), in_dims=1)(x.movedim(0, 1)), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_transforms(form, backend):
    torch.compiler.reset()  # blocks that other tests compiled count towards the limit of recompilations
    block, x = trained(form, norm="group"), torch.randn(3, 4, 6, 6, dtype=torch.float64)
    gradients = vmap(grad(lambda sample: block(sample[None]).square().mean()))
    compiled = torch.compile(lambda samples: gradients(samples), backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x), gradients(x))
    plain = torch.compile(block, backend=backend, fullgraph=True)
    torch.testing.assert_close(plain(x), block(x))
