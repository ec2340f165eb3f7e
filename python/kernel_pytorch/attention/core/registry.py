"""Import path of earlier versions for the registry of attention implementations."""

from kernel_pytorch.attention.variants import (
    clear_registry,
    create_attention,
    create_flash_attention,
    create_memory_efficient_attention,
    get_attention_registry,
    list_available_attention,
    register_attention,
    unregister_attention,
)

__all__ = [
    "clear_registry",
    "create_attention",
    "create_flash_attention",
    "create_memory_efficient_attention",
    "get_attention_registry",
    "list_available_attention",
    "register_attention",
    "unregister_attention",
]
