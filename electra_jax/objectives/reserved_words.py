"""Words of programming languages that are no identifiers. The list is ours and is fixed, since masks depend
on it; a word that only some of the languages reserve is a reserved word of all."""

# Of C, C++, C#, Go, Java, JavaScript, PHP, Python, Ruby, Rust and shell.
_WORDS = """
False None True abstract alias alignas alignof and as assert async auto await begin bool boolean break
byte callable case catch chan char checked class const const_cast constexpr continue crate debugger
decimal declare decltype def default defer del delegate delete do done double dyn dynamic_cast echo elif
else elseif elsif end enddeclare endfor endforeach endif endswitch endwhile ensure enum esac eval event
except explicit export extends extern fallthrough false fi final finally fixed float fn for foreach
friend from func function global go goto if impl implements implicit import in include include_once
inline instanceof insteadof int interface internal is lambda let lock long loop match mod module move
mut mutable namespace native new nil noexcept none nonlocal not null nullptr operator or out override
package params pass print private protected pub public raise readonly redo register reinterpret_cast
require require_once rescue restrict retry return sbyte sealed select self short signed sizeof
stackalloc static static_assert static_cast strictfp string struct super switch synchronized template
then this thread_local throw throws trait transient true try typedef typeid typename typeof uint ulong
unchecked undef union unless unsafe unset unsigned until use ushort using var virtual void volatile
wchar_t when where while with xor yield
"""
RESERVED_WORDS = frozenset(_WORDS.split())
