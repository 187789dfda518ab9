"""Eight fake CPU devices, and shape checks on every annotated function of the package."""

import jax
from jaxtyping import install_import_hook

# Before the backend starts and before the package is first imported.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
# With the numeric tower: 4 is a good enough float.
install_import_hook("vidjax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
