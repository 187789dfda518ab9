#!/usr/bin/env bash
# Compiler flags by chip generation, to be sourced before a run:
#
#   source launch/flags.sh v5e      # v4 v5e v5p v6e tpu7x gpu
#
# LIBTPU_INIT_ARGS for TPUs, XLA_FLAGS for GPUs; what is set already stays, behind ours, and wins. An unknown flag
# ends a run at its start: these are compiled with in tests/launch (libtpu 0.0.52), so an old libtpu may refuse some.

vidjax_flags() {
  local -a flags=()
  case "${1:-}" in
    v4 | v5p)
      # Links in three directions and two cores a chip that share its memory: the compiler's own schedule overlaps
      # collectives well. What it leaves is the sum of gradients over `data` at the end of a step, alone:
      flags+=(
        --xla_tpu_enable_data_parallel_all_reduce_opt=true  # gradients are summed while others are computed
        --xla_tpu_data_parallel_opt_different_sized_ops=true # ... also where layers differ in size, as here
      )
      ;;
    v5e)
      # Few, slower links in two directions: what fsdp gathers must hide behind matrix products.
      flags+=(
        --xla_tpu_enable_data_parallel_all_reduce_opt=true
        --xla_tpu_data_parallel_opt_different_sized_ops=true
        --xla_tpu_enable_async_collective_fusion=true # collectives run as parts of matrix products; v5e alone has it
        --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
        --xla_tpu_enable_async_collective_fusion_multiple_steps=true # ... over several products, where one is short
        --xla_tpu_overlap_compute_collective_tc=true
        --xla_enable_async_all_gather=true
        --xla_tpu_assign_all_reduce_scatter_layout=true # gradients lie as reduce-scatter wants them: no copies
      )
      ;;
    v6e)
      # The same links as v5e, five times its arithmetic: waiting costs most here. It has no fused collectives.
      flags+=(
        --xla_tpu_enable_data_parallel_all_reduce_opt=true
        --xla_tpu_data_parallel_opt_different_sized_ops=true
        --xla_tpu_scoped_vmem_limit_kib=98304 # 96 of 128 MiB of fast memory for one operation: larger tiles
        --xla_tpu_assign_all_reduce_scatter_layout=true
        --xla_tpu_use_minor_sharding_for_major_trivial_input=true # the same for what is gathered
        --xla_tpu_relayout_group_size_threshold_for_reduce_scatter=1
      )
      ;;
    tpu7x)
      # Two chiplets, each a device, and sparse cores that can move data while the others compute.
      flags+=(
        --xla_tpu_enable_data_parallel_all_reduce_opt=true
        --xla_tpu_data_parallel_opt_different_sized_ops=true
        --xla_tpu_enable_sparse_core_collective_offload_all_gather=true
        --xla_tpu_enable_sparse_core_collective_offload_reduce_scatter=true
        --xla_tpu_enable_sparse_core_collective_offload_all_reduce=true
        --xla_sc_disable_megacore_partitioning=true # a chiplet's sparse cores serve that chiplet
        --xla_tpu_use_tc_device_shape_on_sc=true    # arrays keep their layout there: no copies
      )
      ;;
    gpu)
      flags+=(
        --xla_gpu_enable_latency_hiding_scheduler=true # collectives start early and are waited for late
      )
      # One program has the GPU: all but what the driver and NCCL need.
      export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
      export XLA_FLAGS="${flags[*]} ${XLA_FLAGS:-}"
      return
      ;;
    *)
      echo "flags.sh: '${1:-}' is no chip generation; choose v4, v5e, v5p, v6e, tpu7x or gpu" >&2
      return 2
      ;;
  esac
  export LIBTPU_INIT_ARGS="${flags[*]} ${LIBTPU_INIT_ARGS:-}"
}

vidjax_flags "${1:-}"
